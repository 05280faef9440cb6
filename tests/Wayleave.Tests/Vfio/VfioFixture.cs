using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Vfio;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.PeerMemory;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Vfio;

/// <summary>
/// A function of a switch in the hands of VFIO, with sixteen pages in BAR 2, and importers on its neighbour. Takes the
/// host lock itself.
/// </summary>
internal sealed class VfioFixture
{
    public const ulong Page = 4096;
    public const int Bar = 2;

    public VfioFixture(VfioOptions? options = null, Tree? tree = null)
    {
        Tree = tree ?? Trees.Switch(Trees.Unlisted);
        Host = new HostContext(Clock, Trace);
        Fabric = new PciFabric(Tree.Topology);
        using (Host.Enter())
        {
            Fabric.Plug(Importer);
            PciBar bar = Fabric.AddBar(Tree["a"], Bar, PciBarKind.Memory, 16 * Page);
            Fabric.AddBar(Tree["a"], 4, PciBarKind.IoPort, Page);
            Fabric.AddWindow(Memory, bar, 0);
            Device = new VfioDevice(Host, Fabric, Tree["a"], options ?? new VfioOptions(), done =>
            {
                Resets++;
                Array.Fill(Memory, (byte)0xF0);
                if (HoldsResets)
                {
                    FinishReset = done;
                }
                else
                {
                    done();
                }
            });
        }
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public Tree Tree { get; }

    public PciFabric Fabric { get; }

    public PciFunction Importer => Tree["b"];

    public byte[] Memory { get; } = new byte[16 * Page];

    public VfioDevice Device { get; }

    /// <summary>Whether a reset goes on until <see cref="FinishReset"/> is called, with the host lock held.</summary>
    public bool HoldsResets { get; set; }

    public Action? FinishReset { get; private set; }

    public int Resets { get; private set; }

    public DeviceAddress Start => Device.Function.Bars[Bar]!.Range.Start;

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    public Errno TryExport(VfioRange[] ranges, out SharedBuffer? buffer, int region = Bar, uint flags = 0)
    {
        using (Host.Enter())
        {
            return Device.TryExport("bar", region, ranges, flags, out buffer);
        }
    }

    public SharedBuffer Export(params VfioRange[] ranges)
    {
        VfioRange[] all = ranges.Length > 0 ? ranges : [new VfioRange(0, 4 * Page)];
        Assert.Equal(Errno.Success, TryExport(all, out SharedBuffer? buffer));
        return buffer!;
    }

    /// <summary>An importer that has mapped the buffer.</summary>
    public PeerUser Use(SharedBuffer buffer, ImporterKind kind = ImporterKind.Dynamic)
    {
        PeerUser user = new(Host, Importer, kind);
        Assert.Equal(Errno.Success, user.TryAttach(buffer));
        user.Map();
        return user;
    }

    public Errno TryAttach(SharedBuffer buffer, IImporter? importer) =>
        Locked(() => buffer.TryAttach(Importer, importer, out _));

    public AcquireTicket LockReservation(SharedBuffer buffer) => Locked(() =>
    {
        AcquireTicket ticket = new(Host, "somebody else");
        Assert.Equal(LockOutcomeKind.Acquired, buffer.Reservation.TryLock(ticket).Kind);
        return ticket;
    });
}
