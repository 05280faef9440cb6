using System.Diagnostics;
using System.Net;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using static Wayleave.Lab.Rdma.MulticastCase;
using static Wayleave.Lab.Rdma.TransportCases;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// The host's side of <c>rxe-multicast</c>: a datagram to a group in which the kernel's rxe is, and one from there;
/// then the same with mckey, which joins by rdma_cm.
/// </summary>
internal sealed class OurMulticast
{
    private const int Size = 1 << 20;
    private const int SlotBytes = 2048;

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(45);
    private static readonly TimeSpan s_again = TimeSpan.FromMilliseconds(200);

    private readonly NicHandle _nic;
    private readonly DeviceObject _memory;
    private readonly MemoryRegion _region;
    private readonly DmaPort _processor;
    private readonly CompletionQueue _sent;
    private readonly CompletionQueue _received;
    private readonly MulticastCase _link;

    private OurMulticast(WayleaveHost host, DeviceObject memory, MemoryRegion region, MulticastCase link)
    {
        (_nic, _memory, _region, _link) = (host.Nics[0], memory, region, link);
        _processor = new DmaPort(host.Fabric.Processor);
        (_sent, _received) = (_nic.CreateCompletionQueue(64), _nic.CreateCompletionQueue(64));
    }

    internal static int Run(string[] arguments) =>
        arguments.Length == 0 ? RunAsync().GetAwaiter().GetResult() : ExitCodes.Usage;

    private static async Task<int> RunAsync()
    {
        foreach (MulticastCase link in All)
        {
            string? wrong = await WithAsync(link, ours => ours.Play());
            Rendezvous.Leave($"{link.Name}.end", "");
            string its = wrong is null ? Rendezvous.Await<string>($"{link.Name}.verdict") : "";
            Console.WriteLine($"{link.Name}: {wrong ?? (its.Length == 0 ? "ok" : its)}");
            if (wrong is not null || its.Length > 0)
            {
                return ExitCodes.Failed;
            }
        }

        string? wrongMckey = await WithAsync(Mckey, ours => ours.PlayMckey());
        Console.WriteLine($"mckey: {wrongMckey ?? "ok"}");
        return wrongMckey is null ? ExitCodes.Done : ExitCodes.Failed;
    }

    private static async Task<string?> WithAsync(MulticastCase link, Func<OurMulticast, string?> play)
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Nics = [new NicConfig { Address = link.Host, PathMtuBytes = 1024 }],
        });
        DeviceObject memory = await host.Objects.CreateAsync("gpu0", "multicast", Size, StorageKind.Movable);
        NicHandle nic = host.Nics[0];
        MemoryRegion region = await nic.RegisterAsync(
            nic.Device.CreateProtectionDomain(),
            memory.Buffer,
            new MemoryRegionRequest(0, Size, 0, AccessFlags.LocalWrite, ImporterKind.Dynamic));
        string? wrong = play(new OurMulticast(host, memory, region, link));
        await nic.DeregisterAsync(region);
        return wrong;
    }

    private string? Play()
    {
        QueuePair pair = Open(QKey, receives: 4);
        PeerEnd peer = Rendezvous.Await<PeerEnd>($"{_link.Name}.guest");
        Rendezvous.Leave($"{_link.Name}.host", new PeerEnd(_link.Host.ToString(), pair.QpNumber, 0, 0, 0));

        // A datagram may be lost, and is sent again until the guest answers. A member of a group hears what it sends
        // there itself.
        int sent = 0, own = 0;
        Stopwatch watch = Stopwatch.StartNew();
        WorkCompletion received = default;
        for (bool isAnswered = false; !isAnswered;)
        {
            if (watch.Elapsed > s_limit)
            {
                throw new TimeoutException(
                    $"no datagram of the kernel in {s_limit.TotalSeconds:F0} s, {own} of {sent} of our own");
            }

            Dialog.Fill(At(OwnAt, Bytes), KernelSeed);
            Send(pair, _link.Other, QKey, Bytes); // nobody's
            Dialog.Fill(At(OwnAt, Bytes), OurSeed);
            Send(pair, _link.Group, QKey, Bytes);
            sent++;
            while (!isAnswered && TryWait(_received, s_again, out received))
            {
                isAnswered = received.SourceQp != pair.QpNumber;
                if (isAnswered)
                {
                    break;
                }

                // Not what was sent to the other group.
                own++;
                Span<byte> back = At(SlotOf(received.WrId), Bytes + DatagramHeaderBytes);
                if ((_link.CheckHeader(back[..DatagramHeaderBytes])
                    ?? Dialog.Check(back[DatagramHeaderBytes..], OurSeed, "datagram of our own")) is { } foreign)
                {
                    return foreign;
                }

                Post(pair, (int)received.WrId);
            }
        }

        Console.WriteLine($"{_link.Name}: {own} of {sent} datagrams came back to us");
        Span<byte> arrived = At(SlotOf(received.WrId), Bytes + DatagramHeaderBytes);
        string? wrong = own == 0 ? "none of our own datagrams came back"
            : received.Status != WorkCompletionStatus.Success ? $"the receive ended with {received.Status}"
            : received.ByteLength != Bytes + DatagramHeaderBytes ? $"{received.ByteLength} bytes were received"
            : received.Immediate != Dialog.Immediate ? $"the immediate is {received.Immediate:x8}"
            : received.SourceQp != peer.QueuePair ? $"from queue pair {received.SourceQp}"
            : _link.CheckHeader(arrived[..DatagramHeaderBytes])
                ?? Dialog.Check(arrived[DatagramHeaderBytes..], KernelSeed, "datagram of the kernel");
        _nic.Driver.Detach(pair, GidOf(_link.Group)).ThrowIfFailed("detach");
        return wrong;
    }

    // When mckey has joined it does not say: it gets datagrams until it has enough of them and ends.
    private string? PlayMckey()
    {
        QueuePair pair = Open(MckeyQKey, receives: 32);
        Stopwatch watch = Stopwatch.StartNew();
        while (!Rendezvous.Has("mckey.received"))
        {
            Send(pair, _link.Group, MckeyQKey, MckeyBytes);
            while (TryWait(_received, TimeSpan.FromMilliseconds(50), out WorkCompletion own))
            {
                Post(pair, (int)own.WrId);
            }

            if (watch.Elapsed > s_limit)
            {
                return $"mckey has not received {MckeyCount} datagrams";
            }
        }

        // It sends its few once and ends, and does it again until we have enough.
        Rendezvous.Leave("mckey.listens", "");
        for (int i = 0; i < MckeyCount;)
        {
            WorkCompletion received = Wait(_received, $"datagram {i} of mckey");
            if (received.SourceQp == pair.QpNumber)
            {
                continue; // our own came late
            }

            i++;
            string? wrong = received.Status != WorkCompletionStatus.Success
                ? $"the receive ended with {received.Status}"
                : received.ByteLength != MckeyBytes + DatagramHeaderBytes ? $"{received.ByteLength} bytes were received"
                : received.Immediate != received.SourceQp ? $"the immediate is {received.Immediate:x8}" // mckey's own
                : _link.CheckHeader(At(SlotOf(received.WrId), DatagramHeaderBytes));
            if (wrong is not null)
            {
                return wrong;
            }
        }

        Rendezvous.Leave("mckey.heard", "");
        _nic.Driver.Detach(pair, GidOf(_link.Group)).ThrowIfFailed("detach");
        return null;
    }

    // A queue pair in RTS that is in the group and has receives.
    private QueuePair Open(uint qKey, int receives)
    {
        QueuePair? pair = null;
        Errno errno = Errno.Success;
        QueuePairRequest request = new(_region.Domain, _sent, _received, new QueuePairCapabilities())
        {
            Type = QueuePairType.UnreliableDatagram,
        };
        _nic.Driver.WithToken(() => errno = _nic.Device.TryCreateQueuePair(request, out pair));
        errno.ThrowIfFailed("create a queue pair");
        QueuePairAttributes attributes = new() { QKey = qKey, SqPsn = _nic.ChoosePsn() };
        _nic.Driver.WithToken(() =>
        {
            foreach (QueuePairState state in new[]
                { QueuePairState.Init, QueuePairState.ReadyToReceive, QueuePairState.ReadyToSend })
            {
                QueuePairTransitions.TryGet(
                    pair!.State, state, pair.Type, out QueuePairAttributeMask required, out _);
                pair.Modify(attributes with { State = state }, required | QueuePairAttributeMask.State)
                    .ThrowIfFailed($"to {state}");
            }
        });
        for (int i = 0; i < receives; i++)
        {
            Post(pair!, i);
        }

        _nic.Driver.Attach(pair!, GidOf(_link.Group)).ThrowIfFailed("attach");
        return pair!;
    }

    private void Post(QueuePair pair, int slot) =>
        pair.PostReceive(new ReceiveWorkRequest((ulong)slot), Part(SlotOf((ulong)slot), SlotBytes))
            .ThrowIfFailed("receive");

    private void Send(QueuePair pair, IPAddress group, uint qKey, int bytes)
    {
        AddressVector address = new(GidOf(group), AddressVector.RoceUdpPort);
        AddressHandle? handle = null;
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(() => errno = _nic.Device.TryCreateAddressHandle(_region.Domain, address, out handle));
        errno.ThrowIfFailed("create an address handle");
        SendWorkRequest send = new()
        {
            Opcode = WorkRequestOpcode.Send,
            Flags = SendFlags.Signaled,
            AddressHandle = handle,
            RemoteQpNumber = MulticastCase.QueuePair,
            RemoteQKey = qKey,
        };
        pair.PostSend(send, Part(OwnAt, bytes)).ThrowIfFailed("post a SEND");
        WorkCompletion sent = Wait(_sent, "our datagram");
        if (sent.Status != WorkCompletionStatus.Success)
        {
            throw new IOException($"our datagram ended with {sent.Status}");
        }

        _nic.Driver.WithToken(() => _nic.Device.DestroyAddressHandle(handle!));
    }

    private static Gid GidOf(IPAddress address) =>
        Gid.TryParse(address.ToString(), out Gid gid) ? gid : throw new IOException($"the address {address}");

    private static int SlotOf(ulong slot) => ReceivedAt + (int)slot * SlotBytes;

    private WorkCompletion Wait(CompletionQueue queue, string what) =>
        TryWait(queue, s_limit, out WorkCompletion completion)
            ? completion
            : throw new TimeoutException($"{what}: nothing in {s_limit.TotalSeconds:F0} s");

    private bool TryWait(CompletionQueue queue, TimeSpan limit, out WorkCompletion completion)
    {
        WorkCompletion[] one = new WorkCompletion[1];
        Stopwatch watch = Stopwatch.StartNew();
        int count;
        while ((count = queue.Poll(one)) == 0 && watch.Elapsed < limit)
        {
            if (!_nic.Driver.TryProgress())
            {
                Thread.Yield();
            }
        }

        completion = one[0];
        return count != 0;
    }

    private Sge Part(int offset, int length) => new(_region.Iova + (ulong)offset, (uint)length, _region.Key);

    // Nobody moves this object while the test runs.
    private Span<byte> At(int offset, int lengthBytes)
    {
        Span<byte> bytes = default;
        bool found = _memory.Memory.Addresses.TryLocate((ulong)offset, out DeviceAddress start, out _)
            && _processor.TryWrite(start, lengthBytes, out bytes) == Errno.Success;
        return found && bytes.Length == lengthBytes
            ? bytes
            : throw new InvalidOperationException($"{lengthBytes} bytes at {offset} are not in one piece");
    }
}
