using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Tests.PeerMemory;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

/// <summary>The extension by which a device reaches another's private pages where they are.</summary>
public sealed class DirectAccessTests
{
    private const int Page = PageFrame.SizeBytes;

    [Fact]
    public void A_device_with_a_route_reads_another_devices_page_where_it_is()
    {
        using PeerFixture f = new(Trees.Switch(Trees.Unlisted));
        Machine m = new(f);

        MirrorPage seen = m.Look(allows: true);

        Assert.Equal(MirrorBits.Valid | MirrorBits.Write | MirrorBits.PeerToPeer, seen.Bits);
        Assert.Equal(Errno.Success, new DmaPort(f.B).TryRead(seen.Address, Page, out ReadOnlySpan<byte> bytes));
        Assert.Equal(0x42, bytes[0]);
        Assert.Equal(1, m.Gpu.PageCount - m.Gpu.FreePages);
    }

    [Fact]
    public void Without_a_route_or_without_asking_the_page_comes_home()
    {
        using PeerFixture near = new(Trees.Switch(Trees.Unlisted));
        Machine unasked = new(near);
        MirrorPage home = unasked.Look(allows: false);
        Assert.Equal((PageFrameKind.System, 0x42), (home.Frame!.Kind, home.Frame.Bytes.Span[0]));
        using PeerFixture far = new(Trees.RootPorts(Trees.Unlisted));
        Machine routeless = new(far);
        home = routeless.Look(allows: true);
        Assert.Equal((PageFrameKind.System, 0x42), (home.Frame!.Kind, home.Frame.Bytes.Span[0]));
        Assert.Equal(routeless.Gpu.PageCount, routeless.Gpu.FreePages);
    }

    [Fact]
    public void A_page_that_leaves_takes_its_address_with_it()
    {
        using PeerFixture f = new(Trees.Switch(Trees.Unlisted));
        Machine m = new(f);
        m.Look(allows: true);
        ulong sequence = m.Client.BeginRead(out _);

        Assert.True(m.Space.Read(m.Range.Start, new byte[1]).Proceed());

        Assert.True(m.Client.ReadRetry(sequence));
        Assert.Equal(m.Gpu.PageCount, m.Gpu.FreePages);
    }

    /// <summary>A process of one page that lies in the BAR of device a; device b wants it.</summary>
    private sealed class Machine
    {
        public Machine(in PeerFixture f)
        {
            MemorySystem memory = new(f.Host);
            memory.AddMemory(new byte[8 * Page]);
            Space = new AddressSpace(memory, "process");
            MapOperation map = Space.Map(new RegionRequest { LengthBytes = Page });
            Assert.True(map.Proceed());
            Range = map.Addresses;
            Assert.True(Space.Write(Range.Start, new byte[] { 0x42 }).Proceed());
            PciBar bar = f.A.Bars[PeerFixture.MemoryBar]!;
            Gpu = new DeviceMemory(
                memory, new Driver(new PeerReach(f.Fabric, f.A)), f.Memory, PageFrameKind.DevicePrivate,
                bar.Range.Start);
            Assert.True(Space.MigrateToDevice(Range, Gpu).Proceed());
            Function = f.B;
            Mirror mirror = new();
            Assert.Equal(Errno.Success, Space.Subscribe(Range, mirror, out IntervalNotifier? notifier));
            Client = notifier!;
        }

        public AddressSpace Space { get; }

        public AddressRange Range { get; }

        public DeviceMemory Gpu { get; }

        public IntervalNotifier Client { get; }

        private PciFunction Function { get; }

        public MirrorPage Look(bool allows)
        {
            MirrorRange look = new(Space, Client, Range)
            {
                DefaultRequest = MirrorBits.Fault,
                AllowsPeerToPeer = allows,
                Client = Function,
            };
            MirrorPage seen = default;
            MirrorUpdateOperation update = look.Update(r => seen = r.Pages[0]);
            Assert.True(update.Proceed());
            Assert.Equal(Errno.Success, update.Errno);
            return seen;
        }
    }

    private sealed class Mirror : IMirror
    {
        public string Name => "b";

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            notifier.SetSequence(sequence);
            return InvalidateAnswer.Done;
        }
    }

    private sealed class Driver(PeerReach reach) : IPeerReachableMemory
    {
        public string Name => "a";

        public object Owner => this;

        public Errno Copy(PageCopies copies, out Fence? fence)
        {
            fence = null;
            foreach (PageCopy copy in copies)
            {
                copy.Source!.Bytes.CopyTo(copy.Destination.Bytes);
            }

            return Errno.Success;
        }

        public void HandleFree(PageFrame frame)
        {
        }

        public bool TryGetPeerAddress(PageFrame frame, PciFunction client, out DeviceAddress address) =>
            reach.TryGetAddress(frame, client, out address);
    }
}
