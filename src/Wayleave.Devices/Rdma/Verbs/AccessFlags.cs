namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// What a region, a window or a queue pair allows (<c>enum ibv_access_flags</c>, same numbers). Local read is always
/// on.
/// </summary>
[Flags]
public enum AccessFlags
{
    None = 0,
    LocalWrite = 1 << 0,
    RemoteWrite = 1 << 1,
    RemoteRead = 1 << 2,
    RemoteAtomic = 1 << 3,
    WindowBind = 1 << 4,
    ZeroBased = 1 << 5,
    OnDemand = 1 << 6,
    HugePages = 1 << 7,
    FlushGlobal = 1 << 8,
    FlushPersistent = 1 << 9,
    RelaxedOrdering = 1 << 20,
}

/// <summary>The rules that registration applies to access flags (linux.md 5.1, 5.3). Pure.</summary>
public static class AccessRules
{
    /// <summary>What a region over a shared buffer may ask for (<c>ib_uverbs_reg_dmabuf_mr</c>).</summary>
    public const AccessFlags SharedBufferFlags = AccessFlags.LocalWrite | AccessFlags.RemoteWrite
        | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic | AccessFlags.RelaxedOrdering;

    /// <summary>What a region over own memory may ask for (<c>ib_uverbs_reg_mr</c>).</summary>
    public const AccessFlags OwnMemoryFlags = SharedBufferFlags | AccessFlags.WindowBind | AccessFlags.ZeroBased
        | AccessFlags.HugePages | AccessFlags.FlushGlobal | AccessFlags.FlushPersistent;

    /// <summary>
    /// Hints that a device may not know: of own memory those are ignored (<c>IB_ACCESS_OPTIONAL</c>).
    /// </summary>
    public const AccessFlags OptionalFlags = (AccessFlags)0x3FF0_0000;

    /// <summary>What a queue pair lets its peer do; other bits are refused.</summary>
    public const AccessFlags QueuePairFlags = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
        | AccessFlags.RemoteAtomic | AccessFlags.FlushGlobal | AccessFlags.FlushPersistent;

    /// <summary>Which flags a kind of registration refuses with EINVAL.</summary>
    public static AccessFlags Refused(RegistrationKind kind) => kind == RegistrationKind.OwnMemory
        ? ~(OwnMemoryFlags | OptionalFlags | AccessFlags.OnDemand)
        : ~SharedBufferFlags;

    /// <summary>
    /// Whether the combination makes sense (<c>ib_check_mr_access</c>): who lets others write must be allowed to write.
    /// </summary>
    public static bool IsConsistent(AccessFlags flags) =>
        (flags & (AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic)) == 0 || (flags & AccessFlags.LocalWrite) != 0;
}
