using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

/// <summary>
/// A host with a GPU and a NIC below one switch, and above the NIC connections that only append what comes. Queues 2
/// and 3 are taken out of RSS, as a user does before he binds.
/// </summary>
internal sealed class NicFixture : INicHost
{
    public const int Page = 4096;

    private readonly Dictionary<ushort, DevmemReceiveQueue> _connections = [];
    private readonly Queue<byte[]> _toSend = [];

    public NicFixture(NicOptions? options = null, HostBridge? bridge = null, bool ready = true)
    {
        PciTopology topology = new();
        topology.Add(bridge ?? new HostBridge(0, 0));
        Fabric = new PciFabric(topology);
        using (Host.Enter())
        {
            GpuOptions gpu = new() { CopyBlockBytes = Page };
            Gpu = new GpuDevice(Host, Fabric, GpuFunction, gpu, [new byte[8 << 20]], [new byte[8 << 20]]);
        }

        NicOptions nic = (options ?? new NicOptions()) with { Address = TestFrame.Ours };
        Nic = new NicDevice(Host, Fabric, new PciFunction("0000:05:00.0", "nic0"), nic);
        Assert.True(Port.TryEnter());
        if (ready)
        {
            Assert.Equal(Errno.Success, Nic.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)));
            Assert.Equal(Errno.Success, Port.Steering.Change(0, RssChange.Equal(2, Port.Steering.Main.Table.Length)));
        }
    }

    public HostContext Host { get; } = new(new VirtualClock());

    public PciFabric Fabric { get; }

    public PciFunction GpuFunction { get; } = new("0000:03:00.0", "gpu0");

    public GpuDevice Gpu { get; }

    public NicDevice Nic { get; }

    public NicPort Port => Nic.Port;

    public List<MemoryBinding> Revoked { get; } = [];

    public int RoomChanges { get; private set; }

    /// <summary>What came that was no segment.</summary>
    public List<byte[]> Others { get; } = [];

    /// <summary>Headers of the segments that came.</summary>
    public List<byte[]> Headers { get; } = [];

    /// <summary>The last frame of each kind, as the host saw it.</summary>
    public List<FrameLayout> Layouts { get; } = [];

    TimeSpan? INicHost.NextDeadline => null;

    /// <summary>What a connection has received, by the peer's port.</summary>
    public DevmemReceiveQueue Connection(ushort port = 40000)
    {
        if (!_connections.TryGetValue(port, out DevmemReceiveQueue? queue))
        {
            _connections.Add(port, queue = new DevmemReceiveQueue(Nic.Options.Defences));
        }

        return queue;
    }

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

    public GpuBuffer Create(int pages, string name = "rx", StorageKind storage = StorageKind.Movable)
    {
        GpuBuffer? made = null;
        GpuBufferInfo info = new(name, (ulong)(pages * Page), storage);
        Assert.Equal(Errno.Success, Locked(() => Gpu.TryCreate(info, out made)));
        Gpu.CopyEngine.Drive(int.MaxValue);
        return made!;
    }

    /// <summary>Binds, and waits for moves.</summary>
    public BindOutcome TryBind(SharedBuffer buffer, BindRequest request, out MemoryBinding? binding)
    {
        while (true)
        {
            AcquireTicket ticket = Locked(() => new AcquireTicket(Host, "bind"));
            Assert.Equal(LockOutcomeKind.Acquired, Locked(() => buffer.Reservation.TryLock(ticket).Kind));
            BindOutcome outcome = Nic.BindLocked(ticket, buffer, request, out binding);
            Locked(() => buffer.Reservation.Unlock(ticket));
            if (outcome.Wait is null)
            {
                return outcome;
            }

            Gpu.CopyEngine.Drive(int.MaxValue);
        }
    }

    public BindOutcome BindTransmit(GpuBuffer buffer) => BindTransmit(buffer, out _);

    public BindOutcome BindTransmit(GpuBuffer buffer, out TransmitBinding? binding)
    {
        AcquireTicket ticket = Locked(() => new AcquireTicket(Host, "bind"));
        Assert.Equal(LockOutcomeKind.Acquired, Locked(() => buffer.Shared.Reservation.TryLock(ticket).Kind));
        BindRequest request = new() { Kind = ImporterKind.PinnedRevocable };
        BindOutcome outcome = Nic.BindTransmitLocked(ticket, buffer.Shared, request, out binding);
        Locked(() => buffer.Shared.Reservation.Unlock(ticket));
        return outcome;
    }

    public MemoryBinding Bind(GpuBuffer buffer, params int[] queues) => Bind(
        buffer, new BindRequest { Queues = queues, Kind = ImporterKind.PinnedRevocable, Provider = GpuFunction });

    public MemoryBinding Bind(GpuBuffer buffer, BindRequest request)
    {
        BindOutcome outcome = TryBind(buffer.Shared, request, out MemoryBinding? binding);
        Assert.Equal((Errno.Success, ""), (outcome.Errno, outcome.Explanation));
        return binding!;
    }

    public Errno BindErrno(GpuBuffer buffer, BindRequest request) =>
        TryBind(buffer.Shared, request, out _).Errno;

    /// <summary>All connections to our port go to one queue.</summary>
    public void SteerTo(int queue, FlowType type = FlowType.TcpIPv4, ushort port = 5201) => Assert.Equal(
        Errno.Success, Port.Steering.InsertRule(FlowRule.ForPort(type, port, queue), out _));

    public FrameDrop Put(TestFrame frame)
    {
        byte[] bytes = frame.Tcp();
        return Port.HandleFrame(bytes, frame.Link(bytes), Host.Now);
    }

    /// <summary>From the link through to the host.</summary>
    public void Receive(TestFrame frame)
    {
        Assert.Equal(FrameDrop.None, Put(frame));
        Assert.Equal(1, Port.Deliver(this, 16, Host.Now));
    }

    public void Receive(byte[] payload, ushort from = 40000) =>
        Receive(new TestFrame { FromPort = from, Payload = payload });

    public DevmemFragment[] Read(ushort port = 40000, int fragmentsMax = 64)
    {
        DevmemFragment[] fragments = new DevmemFragment[fragmentsMax];
        Errno errno = Connection(port).Receive(
            ReceiveFlags.Devmem, int.MaxValue, new byte[1 << 20], fragments, out ReceiveResult result);
        Assert.Equal(Errno.Success, errno);
        return fragments[..result.Fragments];
    }

    /// <summary>What a reader finds in device memory.</summary>
    public byte[] BytesOf(GpuBuffer buffer, params DevmemFragment[] fragments)
    {
        byte[] all = BytesOf(buffer);
        return [.. fragments.SelectMany(d => all[(int)d.Offset..(int)(d.Offset + d.LengthBytes)])];
    }

    public byte[] BytesOf(GpuBuffer buffer)
    {
        DmaPort dma = new(GpuFunction);
        List<byte> bytes = [];
        foreach (DeviceRange range in buffer.Placement.LocalAddresses.Entries)
        {
            Assert.Equal(
                Errno.Success, dma.TryRead(range.Start, (int)range.LengthBytes, out ReadOnlySpan<byte> span));
            bytes.AddRange(span);
        }

        return [.. bytes];
    }

    public RevokeOperation Free(GpuBuffer buffer) => Locked(() => Gpu.Free(buffer, new RevokePolicy()));

    public int Attachments(GpuBuffer buffer) => Locked(() => buffer.Shared.Attachments.Count);

    /// <summary>Every chunk that somebody still has a reference to.</summary>
    public int LiveChunks => Port.HostPool.LiveChunks + Port.FallbackPool.LiveChunks
        + Nic.Bindings.Sum(b => b.Pool.LiveChunks);

    public void CloseAll()
    {
        foreach (DevmemReceiveQueue queue in _connections.Values)
        {
            queue.Close();
        }

        _connections.Clear();
        Headers.Clear();
        Others.Clear();
        Layouts.Clear();
    }

    public void Send(byte[] frame) => _toSend.Enqueue(frame);

    void INicHost.HandleFrame(ReceivedFrame frame, TimeSpan now)
    {
        Layouts.Add(frame.Layout);
        if (frame.Kind != FrameKind.Tcp)
        {
            Others.Add(frame.Bytes.ToArray());
            return;
        }

        Headers.Add(frame.Bytes.ToArray());
        DevmemReceiveQueue queue = Connection(frame.Layout.SourcePort);
        foreach (ref readonly PayloadFragment fragment in frame.Payload)
        {
            fragment.Retain();
            queue.Append(fragment);
        }
    }

    void INicHost.HandleTimeout(TimeSpan now)
    {
    }

    void INicHost.HandleRoomChanged(TimeSpan now) => RoomChanges++;

    void INicHost.HandleRevoked(MemoryBinding binding, TimeSpan now)
    {
        Revoked.Add(binding);
        foreach (DevmemReceiveQueue queue in _connections.Values)
        {
            if (queue.HoldsUnreadOf(binding))
            {
                queue.Close();
                binding.CountReset();
            }
        }
    }

    bool INicHost.PollTransmit(TimeSpan now, ref SuperFrame frame)
    {
        if (!_toSend.TryDequeue(out byte[]? bytes))
        {
            return false;
        }

        frame.Append(bytes);
        return true;
    }
}
