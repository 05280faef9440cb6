using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Two nodes; on B a process whose memory is registered, on A a buffer to write from and read to.
/// </summary>
internal sealed class SpaceRegionFixture
{
    public const int Page = PageFrame.SizeBytes;
    public const AccessFlags Writable = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;
    public const AccessFlags Readable = AccessFlags.RemoteRead;

    public SpaceRegionFixture(
        int pages = 32,
        PinLimits? limits = null,
        Func<RdmaDeviceOptions, RdmaDeviceOptions>? configure = null,
        Func<QueuePairAttributes, QueuePairAttributes>? attributes = null)
    {
        Link = new TestLink(configureB: configure);
        using (Host.Enter())
        {
            byte[] bytes = GC.AllocateArray<byte>(pages * Page, pinned: true);
            Core.Topology.MemoryWindow window = Node.Fabric.AddWindow(bytes, owner: null);
            Memory = new MemorySystem(Host, swapPages: 64);
            Memory.AddMemory(bytes, window.Range.Start);
            Space = new AddressSpace(Memory, "process", limits);
        }

        Buffer = Link.A.Allocate(1 << 20);
        Local = Link.A.Register(Buffer);
        (A, B) = Link.Connect(attributes, attributes);
    }

    public TestLink Link { get; }

    public TestNode Node => Link.B;

    public HostContext Host => Node.Host;

    public MemorySystem Memory { get; }

    public AddressSpace Space { get; }

    public TestMemory Buffer { get; }

    public MemoryRegion Local { get; }

    public QueuePair A { get; }

    public QueuePair B { get; }

    public T Done<T>(T operation)
        where T : SpaceOperation
    {
        using (Host.Enter())
        {
            Assert.True(operation.Proceed(), $"waits at '{operation.Next}'");
        }

        Assert.Equal(Errno.Success, operation.Errno);
        return operation;
    }

    public AddressRange Map(int pages, SpaceProtection protection = SpaceProtection.ReadWrite, ulong? address = null) =>
        Done(Space.Map(new RegionRequest
        {
            LengthBytes = (ulong)(pages * Page),
            Protection = protection,
            Address = address,
        })).Addresses;

    public void Fill(AddressRange range, byte value) =>
        Done(Space.Write(range.Start, Enumerable.Repeat(value, (int)range.LengthBytes).ToArray()));

    public byte[] Load(ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Done(Space.Read(address, bytes));
        return bytes;
    }

    public RegionRegistration TryRegister(AddressRange range, AccessFlags access, ulong? iova = null)
    {
        using (Host.Enter())
        {
            return RegionRegistration.Start(
                Node.Device, Node.Domain, new SpaceRegionRequest(Space, range, iova ?? range.Start, access));
        }
    }

    public MemoryRegion Register(AddressRange range, AccessFlags access)
    {
        RegionRegistration registration = TryRegister(range, access);
        Assert.Equal((true, Errno.Success), (registration.IsCompleted, registration.Errno));
        return registration.Region!;
    }

    public Errno Deregister(MemoryRegion region)
    {
        using (Host.Enter())
        {
            Errno errno = RegionRegistration.TryDeregister(Node.Device, region, out Core.Fences.Fence? drain);
            Assert.Null(drain);
            return errno;
        }
    }

    /// <summary>A writes or reads; the edge of B serves faults. Null: nothing has completed yet.</summary>
    public WorkCompletionStatus? Transfer(WorkRequestOpcode opcode, MemoryRegion region, ulong address, int length)
    {
        Post(opcode, region, address, length);
        return Finish();
    }

    public void Post(WorkRequestOpcode opcode, MemoryRegion region, ulong address, int length)
    {
        SendWorkRequest request = new()
        {
            Opcode = opcode,
            RemoteAddress = address,
            RKey = region.Key,
            Flags = SendFlags.Signaled,
        };
        Assert.Equal(Errno.Success, A.PostSend(request, new Sge(Local.Iova, (uint)length, Local.Key)));
    }

    public WorkCompletionStatus? Finish(bool servesFaults = true)
    {
        WorkCompletion[] completions = new WorkCompletion[1];
        for (int round = 0; round < 200; round++)
        {
            Link.Run();
            if (A.SendCompletionQueue.Poll(completions) == 1)
            {
                return completions[0].Status;
            }

            if (servesFaults)
            {
                ServeFaults();
            }

            Link.Advance(TimeSpan.FromMilliseconds(1));
        }

        return null;
    }

    public int ServeFaults()
    {
        int served = 0;
        while (Node.Port.PollFault(out MemoryRegion? region))
        {
            served++;
            using (Host.Enter())
            {
                RegionRemap.Start(region);
            }
        }

        return served;
    }

    public WorkCompletionStatus? Write(MemoryRegion region, ulong address, params byte[] bytes)
    {
        Buffer.Fill(0, bytes);
        return Transfer(WorkRequestOpcode.RdmaWrite, region, address, bytes.Length);
    }

    public byte[] ReadBack(MemoryRegion region, ulong address, int length)
    {
        Assert.Equal(WorkCompletionStatus.Success, Transfer(WorkRequestOpcode.RdmaRead, region, address, length));
        return Buffer.Read(0, length);
    }
}
