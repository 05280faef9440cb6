using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;

namespace Wayleave.Core.PeerMemory;

/// <summary>Where a resource with a handle stands.</summary>
public enum PeerResourceState
{
    /// <summary>Its importers allocate from it.</summary>
    Lent,

    /// <summary>Nothing more is allocated; everybody was told to stop, and somebody has not proved it yet.</summary>
    Removing,

    /// <summary>Its memory is in the owner's allocator again.</summary>
    Returned,
}

/// <summary>What ends a resource.</summary>
public enum PeerResourceEvent
{
    /// <summary>Removed by hand, by the close of its last handle, or by the driver's leaving.</summary>
    Removed,

    /// <summary>The revoke of its memory has retired.</summary>
    Retired,
}

// Linux has one pool per function and no way to give memory back but unbind. In 2023 resources with a handle were
// proposed, several per function, each with its own life; the thread had objections, and this is what answers them:
//
//   owner's allocator --TryLend--> resource --import by handle--> importer: attachment, gate, chunks
//          ^                          |
//          +---- revoke retires ------+---- TryRemove, last handle closed, process dead, unbind
//
// Each resource is a buffer of its own with a range of its own, so distinct handles never share a chunk. There are no
// pages: an importer gets addresses. Who holds a handle may import; nobody else can name the resource. What an importer
// still has when the owner goes is taken back as any buffer is: told, drained, proved, and only then given on.
//
//   Lent --Removed--> Removing --Retired--> Returned

/// <summary>
/// A range of a device's memory that was lent to one holder, who lets importers allocate from it: the resource with a
/// handle that was proposed for P2PDMA in 2023. Host lock held by the caller.
/// </summary>
public sealed class PeerResource
{
    private readonly HostContext _host;
    private readonly IPeerMemoryOwner _owner;
    private readonly List<PeerHandle> _handles = [];
    private readonly List<PeerImport> _imports = [];
    private Action? _returned;

    private PeerResource(
        HostContext host, PeerDevice device, IPeerMemoryOwner owner, string name, SharedBuffer buffer, PageRuns runs)
    {
        (_host, Device, _owner, Name, Buffer, Runs) = (host, device, owner, name, buffer, runs);
        SizeBytes = buffer.SizeBytes;
    }

    public PeerDevice Device { get; }

    public string Name { get; }

    public ulong SizeBytes { get; }

    /// <summary>
    /// What the owner lent. Its reservation is the resource's, with the KERNEL fence of the clearing.
    /// </summary>
    public SharedBuffer Buffer { get; }

    public PeerResourceState State { get; private set; }

    /// <summary>What importers have not allocated; 0 once it is being removed.</summary>
    public ulong AvailableBytes => State == PeerResourceState.Lent ? Runs.FreePages * PageRuns.PageBytes : 0;

    /// <summary>Open handles, in the order they were made.</summary>
    public IReadOnlyList<PeerHandle> Handles => _handles;

    /// <summary>Importers that have not closed, in the order they came.</summary>
    public IReadOnlyList<PeerImport> Imports => _imports;

    /// <summary>The revoke that takes the memory back, with its proof; null while lent.</summary>
    public RevokeOperation? Removal { get; private set; }

    internal PageRuns Runs { get; }

    internal HostContext Host => _host;

    /// <summary>The state after an event, or null when the event does not apply.</summary>
    public static PeerResourceState? Next(PeerResourceState state, PeerResourceEvent ev) => (state, ev) switch
    {
        (PeerResourceState.Lent, PeerResourceEvent.Removed) => PeerResourceState.Removing,
        (PeerResourceState.Removing, PeerResourceEvent.Retired) => PeerResourceState.Returned,
        _ => null,
    };

    /// <summary>
    /// Lends a range of a device's memory and makes the first handle to it (<c>add_resource_with_handle</c>). The
    /// device's own allocator decides where it is.
    /// </summary>
    /// <param name="host">The host of the device.</param>
    /// <param name="device">Whose memory.</param>
    /// <param name="name">At most 31 bytes of UTF-8.</param>
    /// <param name="sizeBytes">Rounded up to whole pages.</param>
    /// <param name="holder">Who gets the handle, for people: <c>process 4711</c>.</param>
    /// <param name="handle">Owned by the caller until <see cref="PeerHandle.Close"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for no bytes or a name that is too long; <see cref="Errno.EOPNOTSUPP"/> for a device
    /// whose memory nobody lends; <see cref="Errno.ENODEV"/> when its driver is letting go; otherwise what the owner's
    /// allocator says.
    /// </returns>
    public static Errno TryAdd(
        HostContext host, PeerDevice device, string name, ulong sizeBytes, string holder, out PeerHandle? handle)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(device);
        host.AssertHeld();
        handle = null;
        if (sizeBytes is 0 or > long.MaxValue || !SharedBuffer.IsName(name))
        {
            return Errno.EINVAL;
        }

        if (device.IsUnbinding)
        {
            return Errno.ENODEV;
        }

        if (device.MemoryOwner is not IPeerMemoryOwner owner)
        {
            return Errno.EOPNOTSUPP;
        }

        ulong pages = PageRuns.PagesOf(sizeBytes);
        if (!device.GivesEachHandleItsOwnRange && device.Resources is [PeerResource shared, ..])
        {
            handle = new PeerResource(host, device, owner, name, shared.Buffer, shared.Runs).Enter(holder);
            return Errno.Success;
        }

        Errno errno = owner.TryLend(name, pages * PageRuns.PageBytes, out SharedBuffer? buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        host.Trace("p2pmem.lend", name, (long)buffer!.SizeBytes, (long)buffer.Id);
        handle = new PeerResource(host, device, owner, name, buffer, new PageRuns(pages)).Enter(holder);
        return Errno.Success;
    }

    /// <summary>
    /// Takes the resource away with its users inside (<c>remove_resource_with_handle</c>): from now on nothing is
    /// allocated or imported, every importer is told to stop, and the range goes back to the owner's allocator when
    /// that is proved. Chunks that are out are void; to free them is allowed and does nothing.
    /// </summary>
    /// <param name="policy">What proof the holder asks for, and how long it waits. The owner may ask for more.</param>
    /// <param name="removal">The revoke; the edge drives its time-out.</param>
    /// <returns><see cref="Errno.ENODEV"/> when it is removed already: there is one return of the range.</returns>
    public Errno TryRemove(RevokePolicy policy, out RevokeOperation? removal)
    {
        _host.AssertHeld();
        removal = null;
        if (State != PeerResourceState.Lent)
        {
            return Errno.ENODEV;
        }

        Move(PeerResourceEvent.Removed);
        _host.Trace("p2pmem.remove", Name, (long)Buffer.Id, _imports.Count);
        foreach (PeerHandle handle in _handles.ToArray())
        {
            handle.Close();
        }

        removal = Removal = _owner.TakeBack(Buffer, policy);
        if (removal.State == RevokeState.Retired)
        {
            HandleRetired();
        }
        else
        {
            removal.ObserveRetirement(HandleRetired);
        }

        return Errno.Success;
    }

    public override string ToString() => $"resource {Name} of {Device.Function.Name}";

    /// <summary>Runs once, with the host lock held, when the memory is the owner's again; at once if it is.</summary>
    internal void ObserveReturn(Action observer)
    {
        if (State == PeerResourceState.Returned)
        {
            observer();
        }
        else
        {
            _returned += observer;
        }
    }

    internal PeerHandle Open(string holder)
    {
        PeerHandle handle = new(this, holder);
        _handles.Add(handle);
        return handle;
    }

    // A crash is a close that somebody else does.
    internal void HandleClosed(PeerHandle handle)
    {
        _handles.Remove(handle);
        if (_handles.Count == 0)
        {
            TryRemove(new RevokePolicy { Reason = $"the last handle was closed, by {handle.Holder}" }, out _);
        }
    }

    internal void Add(PeerImport import) => _imports.Add(import);

    internal void Remove(PeerImport import) => _imports.Remove(import);

    private PeerHandle Enter(string holder)
    {
        Device.Add(this);
        return Open(holder);
    }

    private void HandleRetired()
    {
        Move(PeerResourceEvent.Retired);
        Device.Remove(this);
        _host.Trace("p2pmem.returned", Name, (long)Buffer.Id);
        (Action? returned, _returned) = (_returned, null);
        returned?.Invoke();
    }

    private void Move(PeerResourceEvent ev) =>
        State = Next(State, ev) ?? throw new InvalidOperationException($"{this}: {ev} does not apply when {State}");
}
