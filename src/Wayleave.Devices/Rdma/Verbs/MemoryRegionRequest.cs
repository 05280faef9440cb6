using Wayleave.Core.Buffers;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>Whose memory is registered.</summary>
public enum RegistrationKind
{
    /// <summary>
    /// A buffer that somebody exported (<c>ibv_reg_dmabuf_mr</c>): only the flags of
    /// <see cref="AccessRules.SharedBufferFlags"/>.
    /// </summary>
    SharedBuffer,

    /// <summary>
    /// The registrant's own memory, which is behind the buffer (<c>ibv_reg_mr</c>): may carry windows, be counted from
    /// zero, and be flushed.
    /// </summary>
    OwnMemory,
}

/// <summary>What to register (<c>ibv_reg_dmabuf_mr</c>).</summary>
/// <param name="Offset">First byte within the buffer.</param>
/// <param name="LengthBytes">Not zero.</param>
/// <param name="Iova">
/// Address under which the first byte is known; same offset within a 4 KiB page as <paramref name="Offset"/>.
/// </param>
/// <param name="Access">Who may do what.</param>
/// <param name="Kind">Dynamic follows moves; pinned kinds hold the memory in place.</param>
/// <param name="Key">The key's number, for replays; null takes a random one.</param>
/// <param name="Registration">Whose memory it is: that decides which access flags make sense.</param>
public readonly record struct MemoryRegionRequest(
    ulong Offset,
    ulong LengthBytes,
    ulong Iova,
    AccessFlags Access,
    ImporterKind Kind,
    uint? Key = null,
    RegistrationKind Registration = RegistrationKind.SharedBuffer)
{
    /// <summary>
    /// What PeerDirect did before dma-buf: nothing is pinned, the memory is taken for one that stays, and when its
    /// owner moves or frees it the key dies at once. The object stays until it is deregistered. For
    /// <see cref="ImporterKind.Dynamic"/>.
    /// </summary>
    public bool IsLegacyPeer { get; init; }

    /// <summary>
    /// Runs once, after the host lock was released, when the key of a legacy peer has died because the owner took the
    /// memory: what the process did not hear before it hears now, or it is ended, as some drivers did. Null for the
    /// event of the port alone (<see cref="AsyncEventType.MemoryRegionLost"/>).
    /// </summary>
    public Action<MemoryRegion>? Lost { get; init; }

    /// <summary>
    /// On whose behalf it is registered, for the accounts of a quarantine: a peer, a process. Null means the adapter.
    /// </summary>
    public string? Holder { get; init; }
}
