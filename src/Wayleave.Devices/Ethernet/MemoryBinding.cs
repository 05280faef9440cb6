using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

public enum BindingState
{
    /// <summary>Its queues place payload in it.</summary>
    Bound,

    /// <summary>
    /// The owner of the memory has taken it back: nothing is placed, tokens fail. Its user has not unbound it yet.
    /// </summary>
    Revoked,

    /// <summary>Unbound; chunks that are still held keep the memory attached.</summary>
    Unbound,

    /// <summary>Nothing of it is left: unmapped, unpinned, detached.</summary>
    Released,
}

//   Bound --owner revokes--> Revoked --unbind--> Released
//     |                                              ^
//     +--unbind--> Unbound --last chunk comes home---+
//
// Port token: the pool, the queues, the state as the port sees it. Host lock: the memory (BoundMemory). Whoever holds
// the token may take the host lock, so what the last chunk sets off never runs with the host lock held already.

/// <summary>
/// A shared buffer that receive queues place payload in (<c>net_devmem_dmabuf_binding</c>; <c>net/core/devmem.c</c>).
/// Port token held by the caller, unless a member says otherwise.
/// </summary>
public sealed class MemoryBinding
{
    private readonly HostContext _host;
    private readonly NicDefences _defences;
    private readonly List<int> _queues = [];
    private readonly Action _handleReleased;
    private Action? _releasedCallbacks;
    private bool _isUnbound;
    private bool _isReleasing;
    private volatile bool _isReleased;

    internal MemoryBinding(
        HostContext host, uint id, BoundMemory memory, SharedBuffer buffer, BindRequest request, NicDefences defences)
    {
        (_host, Id, Memory, _defences) = (host, id, memory, defences);
        (BufferName, LengthBytes) = (buffer.Name, buffer.SizeBytes);
        (LinearBelowBytes, FallsBack) = (request.LinearBelowBytes, request.FallsBack);
        AllowsRss = request.AllowsRss;
        _handleReleased = HandleReleased;
        int chunks = (int)(buffer.SizeBytes / (ulong)request.ChunkBytes);
        Pool = new ChunkPool(this, chunks, request.ChunkBytes);
    }

    /// <summary>Positive; not used again while any binding has it. What the reader of a socket sees.</summary>
    public uint Id { get; }

    /// <summary>For people and proofs: <c>nic0 binding 3</c>.</summary>
    public string Name => Memory.Name;

    /// <summary>The buffer's name when it was bound.</summary>
    public string BufferName { get; }

    public ulong LengthBytes { get; }

    /// <summary>As <see cref="BindRequest.LinearBelowBytes"/>.</summary>
    public int LinearBelowBytes { get; }

    /// <summary>As <see cref="BindRequest.FallsBack"/>.</summary>
    public bool FallsBack { get; }

    /// <summary>As <see cref="BindRequest.AllowsRss"/>, for as long as it is bound.</summary>
    public bool AllowsRss { get; }

    /// <summary>
    /// How the NIC reaches the memory, as it was mapped: host memory when the exporter shows it no other.
    /// </summary>
    public PeerRoute Route { get; internal init; }

    /// <summary>Static, as in Linux, or PinnedRevocable.</summary>
    public ImporterKind Kind => Memory.Kind;

    /// <summary>Readable without the token.</summary>
    public BindingState State => _isReleased ? BindingState.Released
        : _isUnbound ? BindingState.Unbound
        : Memory.IsRevoked ? BindingState.Revoked
        : BindingState.Bound;

    /// <summary>The owner has taken the memory back. Readable without the token.</summary>
    public bool IsRevoked => Memory.IsRevoked;

    /// <summary>The queues that place payload here, in the order they were named.</summary>
    public IReadOnlyList<int> Queues => _queues;

    public ChunkPool Pool { get; }

    /// <summary>Payload bytes placed in the memory.</summary>
    public long BytesPlaced { get; internal set; }

    /// <summary>Of these, the bytes that a link read straight into the memory: nobody copied them.</summary>
    public long BytesScattered { get; internal set; }

    /// <summary>
    /// Bytes of payload that the NIC copied to place it, or to take it out again when it had been read to the wrong
    /// place. Over <see cref="BytesPlaced"/> it is the copies of a byte: 0 for one that was scattered, 1 for one that
    /// was placed after it was read, 2 for one whose scatter had to be repaired.
    /// </summary>
    public long BytesCopied { get; internal set; }

    /// <summary>
    /// Frames that were read into the memory on a wrong guess, mostly of how long their headers are, and were taken out
    /// and placed as usual.
    /// </summary>
    public long ScattersRepaired { get; internal set; }

    /// <summary>
    /// Of these, the frames that were not the binding's: not understood, or steered elsewhere. What they left in free
    /// chunks was wiped before the gate was left. A link that chooses by flow brings none, but for those that were
    /// underway when a rule changed.
    /// </summary>
    public long ScattersForeign { get; internal set; }

    /// <summary>
    /// Payload bytes that came by its queues and went to host memory: not split, too short, or no chunk was free.
    /// </summary>
    public long BytesLinear { get; internal set; }

    /// <summary>Payload bytes that came by its queues after the revoke. None was placed in the memory.</summary>
    public long BytesAfterRevoke { get; internal set; }

    /// <summary>Tokens that readers hold.</summary>
    public int OutstandingTokens { get; internal set; }

    /// <summary>Tokens that were in readers' hands when they found the memory taken back.</summary>
    public long TokensRevoked { get; internal set; }

    /// <summary>Connections that were reset because their unread, acknowledged payload was taken back.</summary>
    public long ConnectionsReset { get; private set; }

    internal BoundMemory Memory { get; }

    // The revoke was reported to the host of the port.
    internal bool IsReported { get; set; }

    /// <summary>
    /// A connection was reset because <see cref="DevmemReceiveQueue.HoldsUnreadOf"/> said so after a revoke.
    /// </summary>
    public void CountReset() => ConnectionsReset++;

    /// <summary>
    /// Runs <paramref name="callback"/> when nothing of the binding is left, after the host lock was released; false
    /// when that was before. Host lock held by the caller, not the token.
    /// </summary>
    public bool TryAddReleased(Action callback)
    {
        _host.AssertHeld();
        if (_isReleased)
        {
            return false;
        }

        _releasedCallbacks += callback;
        return true;
    }

    public override string ToString() => Name;

    internal void AddQueue(int queue) => _queues.Add(queue);

    /// <summary>
    /// Its queues have let go: the memory follows when the last chunk has come home. Never with the host lock held.
    /// </summary>
    internal void Unbind()
    {
        _isUnbound = true;
        _queues.Clear();
        if (Pool.LiveChunks == 0 || Memory.IsRevoked || !_defences.KeepsMemoryForTokens)
        {
            Release();
        }
    }

    internal void HandleAllChunksFree()
    {
        if (_isUnbound)
        {
            Release();
        }
    }

    private void Release()
    {
        if (_isReleasing)
        {
            return;
        }

        _isReleasing = true;
        using (_host.Enter())
        {
            Memory.BeginRelease(_handleReleased);
        }
    }

    private void HandleReleased()
    {
        _isReleased = true;
        if (_releasedCallbacks is { } callbacks)
        {
            _host.Defer(callbacks);
        }
    }
}
