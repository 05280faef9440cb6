using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Simulation;

/// <summary>
/// The owner of one small buffer, in its own host, for whoever explores an importer: it moves the buffer between two
/// places and takes it back, as actors, and knows who owns which place. What an importer reaches after it should have
/// stopped is seen at once. Not thread-safe; make one for each run.
/// </summary>
public class SimulatedOwner : IPinningExporter
{
    /// <summary>The size of the buffer, and of each place.</summary>
    public const int Bytes = 8;

    private const string Lent = "lent";

    private readonly MemoryWindow[] _windows;
    private readonly byte[][] _places = [new byte[Bytes], new byte[Bytes]];
    private readonly string?[] _owners = [Lent, null];

    /// <param name="storage">What it may do with the buffer; <see cref="Move"/> needs a movable one.</param>
    /// <param name="trace">Gets the events of the host, or null.</param>
    public SimulatedOwner(StorageKind storage, ITraceSink? trace = null)
    {
        Host = new HostContext(Clock, trace);
        Storage = storage;
        PciFunction function = new(new PciAddress(0, 0x0F, 0, 0), Name);
        using (Host.Enter())
        {
            _windows = [.. _places.Select(p => Fabric.AddWindow(p, function))];
            SharedBuffer.TryExport(Host, new ExportInfo(this, Lent, Bytes), out SharedBuffer? shared);
            Shared = shared!;
        }
    }

    public HostContext Host { get; }

    /// <summary>The host's time; it moves when told.</summary>
    public VirtualClock Clock { get; } = new();

    public PciFabric Fabric { get; } = new();

    /// <summary>The buffer, to be attached to: <see cref="Attach"/>.</summary>
    public SharedBuffer Shared { get; }

    /// <summary>Where the buffer is: 0 or 1.</summary>
    public int Place { get; private set; }

    /// <summary>Pins of all importers.</summary>
    public int Pins { get; private set; }

    /// <summary>The revoke that <see cref="TakeBack"/> started, or null before.</summary>
    public RevokeOperation? Revoke { get; private set; }

    public string Name => "owner";

    public StorageKind Storage { get; }

    /// <summary>The bytes of a place, whoever owns it.</summary>
    public Span<byte> BytesOf(int place) => _places[place];

    /// <summary>Runs <paramref name="action"/> with the host lock held; the caller does not hold it.</summary>
    public void Locked(Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        using (Host.Enter())
        {
            action();
        }
    }

    /// <summary>
    /// Attaches an importer, as a device of its own in this host. Host lock not held by the caller.
    /// </summary>
    /// <exception cref="InvalidOperationException">It was refused; the message has the errno.</exception>
    public Attachment Attach(IImporter importer)
    {
        ArgumentNullException.ThrowIfNull(importer);
        using (Host.Enter())
        {
            PciFunction device =
                new(new PciAddress(0, (byte)(0x10 + Fabric.Topology.Functions.Count), 0, 0), importer.Name);
            Fabric.Plug(device);
            Errno errno = Shared.TryAttach(device, importer, out Attachment? attachment);
            return attachment ?? throw new InvalidOperationException($"attach of {importer.Name}: {errno}");
        }
    }

    /// <summary>
    /// Maps an attachment in one step, for a scenario in which nobody holds the reservation then. Host lock not held by
    /// the caller.
    /// </summary>
    /// <exception cref="InvalidOperationException">It was refused, or somebody holds the reservation.</exception>
    public DmaAddressList Map(Attachment attachment)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, attachment.Name);
            if (!Shared.Reservation.TryLockNow(ticket))
            {
                throw new InvalidOperationException($"map of {attachment.Name}: the reservation is held");
            }

            MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
            Shared.Reservation.Unlock(ticket);
            return outcome.Addresses
                ?? throw new InvalidOperationException($"map of {attachment.Name}: {outcome.Kind} {outcome.Errno}");
        }
    }

    /// <summary>
    /// The owner's part of a revoke: it starts one, waits for the proof, and gives the place to the next owner.
    /// </summary>
    /// <param name="policy">Null: the grade Retired.</param>
    public IEnumerable<Step> TakeBack(RevokePolicy? policy = null)
    {
        yield return "revoke";
        using (Host.Enter())
        {
            Revoke = RevokeOperation.Start(Shared, policy ?? new RevokePolicy());
        }

        yield return new("give the memory away", () => Revoke.State == RevokeState.Retired);
        HandOver(Place, "the next owner");
    }

    /// <summary>
    /// The owner's part of a move to the other place: lock, invalidate, wait for the fences of
    /// <paramref name="usage"/>, copy, and give the old place away.
    /// </summary>
    /// <param name="usage">BOOKKEEP in a mover that is right.</param>
    public IEnumerable<Step> Move(ReservationUsage usage = ReservationUsage.Bookkeep)
    {
        Reservation reservation = Shared.Reservation;
        yield return "lock";
        AcquireTicket ticket;
        LockWait? wait;
        using (Host.Enter())
        {
            ticket = new AcquireTicket(Host, "move");
            wait = reservation.TryLock(ticket).Wait;
        }

        yield return new("invalidate and queue the copy", () => wait is null or { IsCompleted: true });
        int old = Place;
        Fence copied;
        IReadOnlyList<Fence> waits;
        using (Host.Enter())
        {
            Shared.InvalidateMappings(ticket);
            waits = reservation.GetFences(usage);
            reservation.ReserveFences(ticket, 1);
            using SignalingSection section = new("move", "submission");
            copied = new Timeline(Host, "copy").CreateFence(); // signalled by the last step
            reservation.AddFence(ticket, copied, ReservationUsage.Kernel);
            Place = 1 - old;
            _owners[Place] = Lent;
            reservation.Unlock(ticket);
        }

        yield return new("copy", () => waits.All(f => f.IsSignaled));
        BytesOf(old).CopyTo(BytesOf(Place));
        HandOver(old, "somebody else");
        using (Host.Enter())
        {
            copied.Signal();
        }
    }

    /// <summary>A place gets another owner, who finds it cleared; null for nobody.</summary>
    public void HandOver(int place, string? owner)
    {
        _owners[place] = owner;
        _places[place].AsSpan().Clear();
    }

    /// <summary>
    /// What an importer calls at each access: the address is that of a place which is the buffer's at this moment.
    /// </summary>
    /// <exception cref="ViolationException">It belongs to somebody else.</exception>
    public void RequireLent(string importer, DeviceAddress address)
    {
        int place = _windows[0].Range.Contains(address, 1) ? 0 : 1;
        if (_owners[place] != Lent)
        {
            string owner = _owners[place] ?? "nobody";
            throw new ViolationException($"{importer} reaches place {place}, which belongs to {owner}");
        }
    }

    /// <summary>Adds what of the owner's state a later step can see, for a fingerprint.</summary>
    public void AddTo(ref StateHash hash)
    {
        foreach (byte[] place in _places)
        {
            foreach (byte b in place)
            {
                hash.Add(b);
            }
        }

        hash.Add((ulong)(_owners[0]?.Length ?? 0) + (ulong)((_owners[1]?.Length ?? 0) * 100));
        hash.Add((ulong)Place + (ulong)(Pins * 10) + (Shared.IsRevoked ? 1000UL : 0));
        hash.Add((ulong)(Revoke?.State ?? (RevokeState)9));
        hash.Add((ulong)Clock.Now.Ticks);
        hash.Add(Shared.Reservation.Owner?.Stamp ?? 0);
        using (Host.Enter())
        {
            foreach (Fence fence in Shared.Reservation.GetFences(ReservationUsage.Bookkeep))
            {
                hash.Add(fence.Context);
                hash.Add((fence.IsSignaled ? 1UL : 0) + (fence.IsForced ? 2UL : 0) + (fence.HasEnded ? 4UL : 0));
            }
        }
    }

    Errno IExporter.Attach(Attachment attachment) => Shared.IsRevoked ? Errno.ENODEV : Errno.Success;

    void IExporter.Detach(Attachment attachment)
    {
        // An attachment by itself holds nothing.
    }

    Errno IPinningExporter.Pin(Attachment attachment)
    {
        Pins++;
        return Errno.Success;
    }

    void IPinningExporter.Unpin(Attachment attachment) => Pins--;

    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses) =>
        Fabric.TryMap(attachment.Device, new DmaAddressList([_windows[Place].Range]), out addresses);

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // The list is a value.
    }

    void IExporter.Release(SharedBuffer buffer)
    {
        // The places are this object's own.
    }
}
