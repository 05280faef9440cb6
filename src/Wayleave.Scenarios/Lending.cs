using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// An exporter in its smallest form, with no device: one buffer of a few bytes that is in one of two places. For
/// scenarios about what an exporter itself may get wrong. Whoever owns the place of a buffer that was given up finds it
/// cleared, and whoever writes there afterwards is seen.
/// </summary>
internal sealed class Lending : IPinningExporter
{
    public const int Bytes = 8;

    private readonly MemoryWindow[] _windows;
    private readonly byte[][] _places = [new byte[Bytes], new byte[Bytes]];
    private readonly string?[] _owners = ["lent", null];

    public Lending(Choices choices, StorageKind storage)
    {
        Story = new Story(choices);
        Clock = new VirtualClock();
        Host = new HostContext(Clock, choices.IsTold ? Story : null);
        Storage = storage;
        Function = new PciFunction(new PciAddress(0, 0x0F, 0, 0), "device");
        using (Host.Enter())
        {
            _windows = [.. _places.Select(p => Fabric.AddWindow(p, Function))];
            World.Require(
                Errno.Success,
                SharedBuffer.TryExport(Host, new ExportInfo(this, "lent", Bytes), out SharedBuffer? shared));
            Shared = shared!;
        }
    }

    public HostContext Host { get; }

    public VirtualClock Clock { get; }

    public PciFabric Fabric { get; } = new();

    public PciFunction Function { get; }

    public Story Story { get; }

    public SharedBuffer Shared { get; }

    /// <summary>Where the buffer is: 0 or 1.</summary>
    public int Place { get; private set; }

    public int Pins { get; private set; }

    /// <summary>Whether the exporter was told that the last user is gone.</summary>
    public bool IsReleased { get; private set; }

    public string Name => "device";

    public StorageKind Storage { get; }

    /// <summary>Who owns a place.</summary>
    public string? OwnerOf(int place) => _owners[place];

    /// <summary>The bytes of a place.</summary>
    public Span<byte> BytesOf(int place) => _places[place];

    /// <summary>A place gets another owner, who finds it cleared.</summary>
    public void HandOver(int place, string? owner)
    {
        _owners[place] = owner;
        _places[place].AsSpan().Clear();
        Story.Say($"place {place} belongs to {owner ?? "nobody"}");
    }

    /// <summary>The buffer is in the other place from now on; its bytes are a copy's business.</summary>
    public void MoveTo(int place)
    {
        Place = place;
        _owners[place] = "lent";
    }

    /// <summary>Throws when the place behind an address is not the lent buffer's.</summary>
    public void RequireLent(string user, DeviceAddress address)
    {
        int place = _windows[0].Range.Contains(address, 1) ? 0 : 1;
        if (_owners[place] != "lent")
        {
            string owner = _owners[place] ?? "nobody";
            throw new ViolationException($"{user} reaches place {place}, which belongs to {owner}");
        }
    }

    /// <summary>A device with an importer of its own.</summary>
    public LendingUser AddUser(string name, ImporterKind kind, int offset, ImporterFaults? faults = null)
    {
        using (Host.Enter())
        {
            return new LendingUser(
                this, new Importer(Host, Fabric, Shared, name, kind, faults ?? new ImporterFaults()), offset);
        }
    }

    /// <summary>A scenario of these actors; what goes wrong is found by the steps and at the end.</summary>
    public Scenario ToScenario(
        IReadOnlyList<LendingUser> users,
        Action? atEnd,
        params ReadOnlySpan<(string Name, IEnumerable<Step> Steps)> actors)
    {
        List<Actor> all = [];
        foreach ((string name, IEnumerable<Step> steps) in actors)
        {
            all.Add(new Actor(name, steps));
        }

        Story.Take();
        return new Scenario(
            all,
            Invariant: () => { },
            Fingerprint: () =>
            {
                Hash hash = new();
                AddTo(ref hash);
                foreach (LendingUser user in users)
                {
                    user.AddTo(ref hash);
                }

                return hash.Value;
            },
            AtEnd: atEnd,
            Narrate: Story.Take);
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

    Errno IExporter.Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
    {
        DmaAddressList place = new([_windows[Place].Range]);
        return Fabric.TryMap(attachment.Device, place, out addresses);
    }

    void IExporter.Unmap(Attachment attachment, DmaAddressList addresses)
    {
        // The list is a value.
    }

    void IExporter.Release(SharedBuffer buffer) => IsReleased = true;

    private void AddTo(ref Hash hash)
    {
        foreach (byte[] place in _places)
        {
            foreach (byte b in place)
            {
                hash.Add(b);
            }
        }

        hash.Add((ulong)(_owners[0]?.Length ?? 0) + (ulong)((_owners[1]?.Length ?? 0) * 100));
        hash.Add((ulong)Place + (ulong)(Pins * 10) + (Shared.IsRevoked ? 1000UL : 0) + (IsReleased ? 2000UL : 0));
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
}
