using System.Text;
using System.Text.Json;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Victim;

/// <summary>
/// What the program has by the broker: memory, work of both engines, fences, rings, keys and queue pairs. Nothing is
/// let go of.
/// </summary>
internal sealed class SharedBelongings(string broker, string meeting)
{
    private const int Bytes = 64 << 10;
    private const int RingBytes = 1 << 20;
    private const ClientRegionAccess Writable = ClientRegionAccess.LocalWrite | ClientRegionAccess.RemoteWrite;

    private readonly List<object> _held = [];
    private BrokerClient _client = null!;
    private ClientDevice _gpu = null!;
    private ClientBuffer _given = null!;
    private ClientBuffer _taken = null!;
    private ClientBuffer _revocable = null!;
    private ClientBuffer _withdrawable = null!;
    private ClientBuffer _busy = null!;
    private ClientFence _endless = null!;
    private ClientFence[] _fences = [];

    public void Open()
    {
        _client = BrokerClient.Connect(broker, "victim");
        _gpu = _client.OpenDevice("gpu0");
        _given = _gpu.Allocate("given", Bytes);
        Map(_given).Fill(0xEE);
        _withdrawable = _gpu.Allocate("withdrawable", Bytes, ClientStorage.Withdrawable);
        Map(_withdrawable).Fill(1);
        _revocable = _gpu.Allocate("revocable", Bytes, ClientStorage.Revocable);
    }

    // To whoever waits there; a descriptor of ours stays open too.
    public void Give()
    {
        FileDescriptor descriptor = _given.Export();
        _held.Add(descriptor);
        using MessageSocket socket = MessageSocket.Connect(meeting);
        socket.Send("give"u8, [descriptor]);
    }

    public void Take()
    {
        using MessageSocket socket = MessageSocket.Connect(meeting);
        socket.Send("take"u8, []);
        socket.Receive(new byte[16], out _, out FileDescriptor[] descriptors);
        _taken = _client.Import(descriptors[0]);
        _held.AddRange(descriptors);
        Map(_taken)[0] = 0x77;
    }

    // A job that never ends, one behind it, a copy that waits for it, and a buffer that everybody finds busy with it.
    public void Submit()
    {
        _busy = _gpu.Allocate("busy", Bytes);
        ClientBinding binding = _gpu.Bind(_busy);
        _held.AddRange([_gpu.Bind(_revocable), binding]);
        ClientQueue queue = _gpu.OpenQueue("endless");
        _endless = queue.Submit(Command(new GpuCommand { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue }));
        GpuCommand fill = new() { Opcode = GpuOpcode.Fill, Target = binding.Address, Count = Bytes, Value = 7 };
        ClientFence behind = queue.Submit(Command(fill));
        _busy.ImportFence(_endless, FenceUse.Write);
        ClientFence copied = _gpu.Copy(_busy, 0, _revocable, 0, Bytes, _endless);
        ClientTimeline timeline = _client.OpenTimeline("never");
        ClientFence own = timeline.MakeFence(5);
        timeline.Advance(4);
        _fences = [_endless, behind, copied, own, _client.Merge(_endless, own)];
        _held.AddRange([queue, timeline]);
    }

    // To whoever waits there, who waits for them; and for one of them unasked, in a buffer of its own.
    public void SendFences()
    {
        _taken.ImportFence(_endless, FenceUse.Write);
        using MessageSocket socket = MessageSocket.Connect(meeting);
        socket.Send("fences"u8, [.. _fences.Select(f => f.Descriptor)]);
    }

    // One that is full of copies all the time, and one that has a copy and a barrier which wait for what never ends.
    public void OpenRings()
    {
        ClientBuffer copied = _gpu.Allocate("copied", RingBytes);
        ClientRing full = _gpu.OpenRing(8), stuck = _gpu.OpenRing(8);
        (uint at, uint of) = (full.Attach(copied), full.Attach(_withdrawable));
        Thread thread = new(() => Fill(full, at, of)) { IsBackground = true };
        thread.Start();
        (uint busy, uint free) = (stuck.Attach(_busy), stuck.Attach(copied));
        stuck.TrySubmit(new RingCommand(RingOperation.Copy, false, 1, busy, free, 0, 0, Bytes));
        stuck.TrySubmit(new RingCommand(RingOperation.Nothing, true, 2));
        _held.AddRange([copied, stuck, thread]);
    }

    // Keys of each kind, and a peer on another host that writes by one of them.
    public void Register()
    {
        ClientDevice nic = _client.OpenDevice("rdma0");
        ClientRegion written = nic.Register(_revocable, 0, Bytes, Writable);
        _held.AddRange(
        [
            written,
            nic.Register(_withdrawable, 4096, Bytes - 4096, Writable, ClientRegionKind.PinnedRevocable),
            nic.Register(_given, 0, Bytes, ClientRegionAccess.RemoteRead, ClientRegionKind.Pinned),
        ]);
        ClientQueuePair pair = nic.CreateQueuePair();
        _held.AddRange([pair, nic.CreateQueuePair()]);
        ClientRdmaEnd end = pair.Local;
        ConnectionEndDocument local = ConnectionEndDocument.From(
            new ConnectionEnd(Gid.FromBytes(end.Gid.Span), end.UdpPort, end.QueuePair, end.Psn, end.PathMtuBytes)
            {
                ReceiveBufferBytes = end.ReceiveBufferBytes,
            });
        using MessageSocket socket = MessageSocket.Connect(meeting);
        string text = JsonSerializer.Serialize(local, ControlJson.Default.ConnectionEndDocument);
        socket.Send(Encoding.UTF8.GetBytes($"write {written.Key} {text}"), []);
        byte[] answer = new byte[1024];
        socket.Receive(answer, out int length, out _);
        ConnectionEnd peer = JsonSerializer
            .Deserialize(answer.AsSpan(0, length), ControlJson.Default.ConnectionEndDocument)!
            .ToEnd();
        byte[] gid = new byte[Gid.Size];
        peer.Gid.WriteTo(gid);
        pair.Connect(new ClientRdmaEnd(
            gid, peer.UdpPort, peer.QpNumber, peer.Psn, peer.PathMtuBytes, peer.ReceiveBufferBytes ?? 0));
        socket.Send("connected"u8, []);
    }

    private static void Fill(ClientRing ring, uint at, uint of)
    {
        for (ulong tag = 0; ; tag++)
        {
            RingCommand command = tag % 4 == 0
                ? new RingCommand(RingOperation.Copy, tag % 16 == 0, tag, of, at, 0, 0, Bytes)
                : new RingCommand(RingOperation.Copy, false, tag, at, at, 0, RingBytes / 2, RingBytes / 2);
            while (!ring.TrySubmit(command))
            {
                ring.Wait(out _, Timeout.InfiniteTimeSpan);
            }
        }
    }

    private static byte[] Command(GpuCommand command)
    {
        byte[] bytes = new byte[GpuCommand.SizeBytes];
        command.Write(bytes);
        return bytes;
    }

    private Span<byte> Map(ClientBuffer buffer)
    {
        ClientMapping mapping = buffer.Map();
        _held.Add(mapping);
        return mapping.Memory.Span;
    }
}
