using System.Buffers.Binary;
using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using static Wayleave.Lab.Rdma.TransportCases;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// The host's side of <c>rxe-transports</c>: atomics both ways, then a message each way over UC and UD.
/// </summary>
internal sealed class OurTransports
{
    private const int Size = 1 << 20;

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    private readonly WayleaveHost _host;
    private readonly NicHandle _nic;
    private readonly DeviceObject _memory;
    private readonly MemoryRegion _region;
    private readonly DmaPort _processor;
    private readonly CompletionQueue _completions;
    private readonly Dialog _link;

    private OurTransports(WayleaveHost host, DeviceObject memory, MemoryRegion region, Dialog link)
    {
        (_host, _nic, _memory, _region, _link) = (host, host.Nics[0], memory, region, link);
        _processor = new DmaPort(host.Fabric.Processor);
        _completions = _nic.CreateCompletionQueue(64);
    }

    internal static int Run(string[] arguments) =>
        arguments.Length == 0 ? RunAsync().GetAwaiter().GetResult() : ExitCodes.Usage;

    private static async Task<int> RunAsync()
    {
        foreach (Dialog link in Dialog.All)
        {
            int code = await RunAsync(link);
            if (code != ExitCodes.Done)
            {
                return code;
            }
        }

        return ExitCodes.Done;
    }

    private static async Task<int> RunAsync(Dialog link)
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Nics = [new NicConfig { Address = link.Host, PathMtuBytes = link.PathMtu }],
        });
        DeviceObject memory = await host.Objects.CreateAsync("gpu0", "transports", Size, StorageKind.Movable);
        NicHandle nic = host.Nics[0];
        MemoryRegion region = await nic.RegisterAsync(
            nic.Device.CreateProtectionDomain(),
            memory.Buffer,
            new MemoryRegionRequest(
                0, Size, 0, AccessFlags.LocalWrite | AccessFlags.RemoteAtomic, ImporterKind.Dynamic));
        OurTransports ours = new(host, memory, region, link);
        (string Name, Func<string?> Play)[] cases =
        [
            ("atomics", ours.PlayAtomics),
            ("uc", () => ours.PlayMessages(QueuePairType.UnreliableConnection, LongBytes(link))),
            ("ud", () => ours.PlayMessages(QueuePairType.UnreliableDatagram, DatagramBytes(link))),
        ];
        foreach ((string name, Func<string?> play) in cases)
        {
            string? wrong = play();
            Rendezvous.Leave($"{link.Name}.{name}.end", "");
            string its = wrong is null ? Rendezvous.Await<string>($"{link.Name}.{name}.verdict") : "";
            Console.WriteLine($"{link.Name} {name}: {wrong ?? (its.Length == 0 ? "ok" : its)}");
            if (wrong is not null || its.Length > 0)
            {
                return ExitCodes.Failed;
            }
        }

        await nic.DeregisterAsync(region);
        return ExitCodes.Done;
    }

    private string? PlayAtomics()
    {
        BinaryPrimitives.WriteUInt64LittleEndian(Bytes(WordAt, 8), First);
        QueuePair pair = Open(QueuePairType.ReliableConnection);
        PeerEnd peer = Meet("atomics", pair);
        SendWorkRequest atomic = new()
        {
            Opcode = WorkRequestOpcode.AtomicCompareSwap,
            Flags = SendFlags.Signaled,
            RemoteAddress = peer.Memory + WordAt,
            RKey = peer.Key,
            CompareAdd = First,
            Swap = Swapped,
        };
        SendWorkRequest add = atomic with { Opcode = WorkRequestOpcode.AtomicFetchAdd, CompareAdd = Added };
        pair.PostSend(atomic, Part(OwnAt, 8)).ThrowIfFailed("post a compare-and-swap");
        pair.PostSend(atomic with { Swap = 0 }, Part(OwnAt + 8, 8)).ThrowIfFailed("post a compare-and-swap");
        pair.PostSend(add, Part(OwnAt + 16, 8)).ThrowIfFailed("post a fetch-and-add");
        for (int i = 0; i < 3; i++)
        {
            WorkCompletion completion = Wait($"atomic {i + 1}");
            if (completion.Status != WorkCompletionStatus.Success)
            {
                return $"atomic {i + 1} by us ended with {completion.Status}";
            }
        }

        (ulong, ulong, ulong) before = (Word(OwnAt), Word(OwnAt + 8), Word(OwnAt + 16));
        Rendezvous.Leave($"{_link.Name}.atomics.hostdone", "");
        Rendezvous.Await<string>($"{_link.Name}.atomics.guestdone");
        return before != (First, Swapped, Swapped) ? $"our atomics brought {before} back"
            : Word(WordAt) != unchecked(Swapped + Added) ? $"the kernel's atomics left {Word(WordAt):x16}"
            : null;
    }

    private string? PlayMessages(QueuePairType type, int bytes)
    {
        bool isDatagram = type == QueuePairType.UnreliableDatagram;
        string name = isDatagram ? "ud" : "uc";
        int header = isDatagram ? DatagramHeaderBytes : 0;
        Dialog.Fill(Bytes(OwnAt, bytes), OurSeed);
        QueuePair pair = Open(type);
        Sge arrival = Part(ReceivedAt, bytes + header);
        PeerEnd peer = Meet(
            name, pair, () => pair.PostReceive(new ReceiveWorkRequest(7), arrival).ThrowIfFailed("receive"));
        SendWorkRequest send = new()
        {
            Opcode = WorkRequestOpcode.Send,
            Flags = SendFlags.Signaled,
            AddressHandle = isDatagram ? HandleOf(peer) : null,
            RemoteQpNumber = peer.QueuePair,
            RemoteQKey = QKey,
        };
        pair.PostSend(send, Part(OwnAt, bytes)).ThrowIfFailed("post a SEND");
        WorkCompletion sent = Wait("our message");
        WorkCompletion received = Wait("the kernel's message");
        return sent.Status != WorkCompletionStatus.Success ? $"our message ended with {sent.Status}"
            : received.Status != WorkCompletionStatus.Success ? $"the receive ended with {received.Status}"
            : received.ByteLength != (uint)(bytes + header) ? $"{received.ByteLength} bytes were received"
            : received.Immediate != Dialog.Immediate ? $"the immediate is {received.Immediate:x8}"
            : isDatagram && received.SourceQp != peer.QueuePair ? $"from queue pair {received.SourceQp}"
            : Dialog.Check(Bytes(ReceivedAt + header, bytes), KernelSeed, "message of the kernel");
    }

    private QueuePair Open(QueuePairType type)
    {
        QueuePair? pair = null;
        Errno errno = Errno.Success;
        QueuePairRequest request = new(_region.Domain, _completions, _completions, new QueuePairCapabilities())
        {
            Type = type,
        };
        _nic.Driver.WithToken(() => errno = _nic.Device.TryCreateQueuePair(request, out pair));
        errno.ThrowIfFailed("create a queue pair");
        return pair!;
    }

    private PeerEnd Meet(string name, QueuePair pair, Action? ready = null)
    {
        PeerEnd peer = Rendezvous.Await<PeerEnd>($"{_link.Name}.{name}.guest");
        uint psn = _nic.ChoosePsn();
        QueuePairAttributes attributes = new()
        {
            AccessFlags = AccessFlags.RemoteAtomic,
            AddressVector = AddressOf(peer),
            Profile = PeerProfile.Rxe,
            PathMtu = (PathMtu)(System.Numerics.BitOperations.Log2((uint)_link.PathMtu) - 7),
            QKey = QKey,
            DestQpNumber = peer.QueuePair,
            RqPsn = peer.Psn,
            SqPsn = psn,
            MaxRdAtomic = 4,
            MaxDestRdAtomic = 4,
            MinRnrTimer = 12,
            Timeout = 18,
            RetryCount = 7,
            RnrRetry = 7,
        };
        _nic.Driver.WithToken(() =>
        {
            Step(pair, attributes, QueuePairState.Init);
            ready?.Invoke();
            Step(pair, attributes, QueuePairState.ReadyToReceive);
            Step(pair, attributes, QueuePairState.ReadyToSend);
        });
        Rendezvous.Leave($"{_link.Name}.{name}.host", new PeerEnd(
            _link.Host.ToString(), pair.QpNumber, psn, _region.Key, _region.Iova));
        Rendezvous.Await<string>($"{_link.Name}.{name}.ready");
        return peer;
    }

    private static void Step(QueuePair pair, QueuePairAttributes attributes, QueuePairState state)
    {
        QueuePairTransitions.TryGet(pair.State, state, pair.Type, out QueuePairAttributeMask required, out _);
        pair.Modify(attributes with { State = state }, required | QueuePairAttributeMask.State)
            .ThrowIfFailed($"to {state}");
    }

    private static AddressVector AddressOf(PeerEnd peer) =>
        Gid.TryParse(peer.Address, out Gid gid)
            ? new AddressVector(
                gid, AddressVector.RoceUdpPort, gid.IsIPv4 ? IcrcMode.SolveIdentification : IcrcMode.Full)
            : throw new IOException($"the guest's address {peer.Address}");

    private AddressHandle HandleOf(PeerEnd peer)
    {
        AddressHandle? handle = null;
        Errno errno = Errno.Success;
        _nic.Driver.WithToken(
            () => errno = _nic.Device.TryCreateAddressHandle(_region.Domain, AddressOf(peer), out handle));
        errno.ThrowIfFailed("create an address handle");
        return handle!;
    }

    private WorkCompletion Wait(string what)
    {
        WorkCompletion[] one = new WorkCompletion[1];
        Stopwatch watch = Stopwatch.StartNew();
        while (_completions.Poll(one) == 0)
        {
            if (!_nic.Driver.TryProgress())
            {
                Thread.Yield();
            }

            if (watch.Elapsed > s_limit)
            {
                throw new TimeoutException($"{what}: nothing in {s_limit.TotalSeconds:F0} s");
            }
        }

        return one[0];
    }

    private Sge Part(int offset, int length) => new(_region.Iova + (ulong)offset, (uint)length, _region.Key);

    private ulong Word(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(offset, 8));

    // Nobody moves this object while the test runs.
    private Span<byte> Bytes(int offset, int lengthBytes)
    {
        Span<byte> bytes = default;
        bool found = _memory.Memory.Addresses.TryLocate((ulong)offset, out DeviceAddress start, out _)
            && _processor.TryWrite(start, lengthBytes, out bytes) == Errno.Success;
        return found && bytes.Length == lengthBytes
            ? bytes
            : throw new InvalidOperationException($"{lengthBytes} bytes at {offset} are not in one piece");
    }
}
