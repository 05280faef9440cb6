using System.Diagnostics;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;

namespace Wayleave.Lab.Rdma;

/// <summary>The host's side of every dialog: Wayleave's RDMA device on a plain UDP socket.</summary>
internal static class OurPeer
{
    private const int Size = 1 << 20;
    private const int OurSeed = 0x11;
    private const int KernelSeed = 0x55;

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    internal static int Run(string[] arguments) =>
        arguments.Length == 0 ? RunAsync().GetAwaiter().GetResult() : ExitCodes.Usage;

    private static async Task<int> RunAsync()
    {
        foreach (Dialog dialog in Dialog.All)
        {
            string? wrong = await RunAsync(dialog).ConfigureAwait(false);
            string? its = wrong is null ? Rendezvous.Await<string>($"{dialog.Name}.verdict") : null;
            Console.WriteLine($"{dialog.Name}: {wrong ?? "ok"}");
            if (wrong is not null || its is not "")
            {
                return ExitCodes.Failed;
            }
        }

        return ExitCodes.Done;
    }

    private static async Task<string?> RunAsync(Dialog dialog)
    {
        await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
        {
            Nics =
            [
                new NicConfig
                {
                    Address = dialog.Host, UdpPort = AddressVector.RoceUdpPort, PathMtuBytes = dialog.PathMtu,
                },
            ],
        }).ConfigureAwait(false);
        NicHandle nic = host.Nics[0];
        DeviceObject memory =
            await host.Objects.CreateAsync("gpu0", "dialog", Size, StorageKind.Movable).ConfigureAwait(false);
        await EditAsync(host, memory, bytes =>
        {
            Dialog.Fill(bytes.AsSpan(Dialog.ServedAt, Dialog.Bytes), OurSeed);
            Dialog.Fill(bytes.AsSpan(Dialog.OwnAt, Dialog.Bytes), OurSeed + 1);
        }).ConfigureAwait(false);
        ProtectionDomain domain = nic.Device.CreateProtectionDomain();
        MemoryRegion region = await nic.RegisterAsync(domain, memory.Buffer, new MemoryRegionRequest(
            0, Size, 0, AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
            ImporterKind.Dynamic)).ConfigureAwait(false);
        CompletionQueue completions = nic.CreateCompletionQueue(64);
        QueuePair pair = nic.CreateQueuePair(domain, completions);
        Sge Part(int offset, int length) => new(region.Iova + (ulong)offset, (uint)length, region.Key);

        PeerEnd peer = Rendezvous.Await<PeerEnd>($"{dialog.Name}.guest");
        uint psn = nic.ChoosePsn();
        Connect(nic, pair, dialog, peer, psn);
        pair.PostReceive(new ReceiveWorkRequest(1), Part(Dialog.ReceivedAt, Dialog.Bytes)).ThrowIfFailed("receive");
        Rendezvous.Leave($"{dialog.Name}.host", new PeerEnd(
            dialog.Host.ToString(), pair.QpNumber, psn, region.Key, region.Iova));
        Rendezvous.Await<string>($"{dialog.Name}.ready");

        SendWorkRequest request = new() { Flags = SendFlags.Signaled, RKey = peer.Key };
        pair.PostSend(
            request with { WrId = 2, Opcode = WorkRequestOpcode.RdmaWrite, RemoteAddress = peer.Memory },
            Part(Dialog.OwnAt, Dialog.Bytes)).ThrowIfFailed("post a WRITE");
        pair.PostSend(
            request with
            {
                WrId = 3,
                Opcode = WorkRequestOpcode.RdmaRead,
                RemoteAddress = peer.Memory + Dialog.ServedAt,
            },
            Part(Dialog.ReadAt, Dialog.Bytes)).ThrowIfFailed("post a READ");
        pair.PostSend(
            request with { WrId = 4, Opcode = WorkRequestOpcode.SendWithImmediate, Immediate = Dialog.Immediate },
            Part(Dialog.OwnAt, Dialog.SendBytes)).ThrowIfFailed("post a SEND");
        string? wrong = null;

        // Our three requests and, after them, the kernel's SEND, which says that its WRITE and READ are done.
        for (int i = 0; i < 4 && wrong is null; i++)
        {
            WorkCompletion completion = Wait(nic, completions, $"completion {i + 1} of 4");
            wrong = completion.Status == WorkCompletionStatus.Success
                ? null : $"request {completion.WrId} ended with {completion.Status}";
            if (completion.WrId == 1 && wrong is null && completion.Immediate != Dialog.Immediate)
            {
                wrong = $"the immediate is {completion.Immediate:x8}";
            }
        }

        await EditAsync(host, memory, bytes => wrong ??=
            Dialog.Check(bytes.AsSpan(Dialog.ReadAt, Dialog.Bytes), KernelSeed, "READ by us")
            ?? Dialog.Check(bytes.AsSpan(Dialog.WrittenAt, Dialog.Bytes), KernelSeed + 1, "WRITE by the kernel")
            ?? Dialog.Check(bytes.AsSpan(Dialog.ReceivedAt, Dialog.SendBytes), KernelSeed + 1, "SEND by the kernel"))
            .ConfigureAwait(false);

        // The wrong key ends the kernel's queue pair, and with it whatever it has not seen acknowledged.
        if (wrong is null)
        {
            Rendezvous.Await<string>($"{dialog.Name}.done");
        }

        wrong ??= IsRefused(nic, pair, completions, request, peer, Part(Dialog.OwnAt, 64));
        Rendezvous.Leave($"{dialog.Name}.refused", "");
        await nic.DeregisterAsync(region).ConfigureAwait(false);
        return wrong;
    }

    // A key that is not there: the kernel's NAK has to come back as what it is.
    private static string? IsRefused(
        NicHandle nic, QueuePair pair, CompletionQueue completions, SendWorkRequest request, PeerEnd peer, Sge part)
    {
        SendWorkRequest write = request with
        {
            WrId = 5,
            Opcode = WorkRequestOpcode.RdmaWrite,
            RemoteAddress = peer.Memory,
            RKey = peer.Key ^ 0x5500,
        };
        pair.PostSend(write, part).ThrowIfFailed("post a WRITE by a wrong key");
        WorkCompletion refused = Wait(nic, completions, "the refusal");
        return refused.Status == WorkCompletionStatus.RemoteAccessError
            ? null : $"a WRITE by a wrong key ended with {refused.Status}";
    }

    private static void Connect(NicHandle nic, QueuePair pair, Dialog dialog, PeerEnd peer, uint psn)
    {
        if (!Gid.TryParse(peer.Address, out Gid gid))
        {
            throw new IOException($"the guest's address {peer.Address}");
        }

        QueuePairAttributes attributes = new()
        {
            AccessFlags = AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
            AddressVector = new AddressVector(
                gid, AddressVector.RoceUdpPort, gid.IsIPv4 ? IcrcMode.SolveIdentification : IcrcMode.Full),
            Profile = PeerProfile.Rxe,
            PathMtu = (PathMtu)(System.Numerics.BitOperations.Log2((uint)dialog.PathMtu) - 7),
            DestQpNumber = peer.QueuePair,
            RqPsn = peer.Psn,
            SqPsn = psn,
            MaxRdAtomic = 4,
            MaxDestRdAtomic = 4,
            MinRnrTimer = 12,
            Timeout = 16,
            RetryCount = 7,
            RnrRetry = 7,
        };
        const QueuePairAttributeMask init = QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex
            | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags;
        const QueuePairAttributeMask receive = QueuePairAttributeMask.State | QueuePairAttributeMask.AddressVector
            | QueuePairAttributeMask.PathMtu | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn
            | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer;
        const QueuePairAttributeMask send = QueuePairAttributeMask.State | QueuePairAttributeMask.Timeout
            | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry | QueuePairAttributeMask.SqPsn
            | QueuePairAttributeMask.MaxRdAtomic;
        nic.Driver.WithToken(() =>
        {
            pair.Modify(attributes with { State = QueuePairState.Init }, init).ThrowIfFailed("to INIT");
            pair.Modify(attributes with { State = QueuePairState.ReadyToReceive }, receive).ThrowIfFailed("to RTR");
            pair.Modify(attributes with { State = QueuePairState.ReadyToSend }, send).ThrowIfFailed("to RTS");
        });
    }

    private static WorkCompletion Wait(NicHandle nic, CompletionQueue completions, string what)
    {
        WorkCompletion[] one = new WorkCompletion[1];
        Stopwatch watch = Stopwatch.StartNew();
        while (completions.Poll(one) == 0)
        {
            if (!nic.Driver.TryProgress())
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

    // Hands the object's bytes out as one array and takes them back.
    private static async Task EditAsync(WayleaveHost host, DeviceObject memory, Action<byte[]> edit)
    {
        byte[] all = new byte[Size];
        await host.Objects.ForEachPieceAsync(memory, (at, bytes) => bytes.CopyTo(all.AsSpan((int)at)))
            .ConfigureAwait(false);
        edit(all);
        await host.Objects.ForEachPieceAsync(
            memory, (at, bytes) => all.AsSpan((int)at, bytes.Length).CopyTo(bytes)).ConfigureAwait(false);
    }
}
