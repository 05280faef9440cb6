using System.Diagnostics;
using System.Net.Sockets;
using Wayleave.Lab.Interop;
using static Wayleave.Lab.Rdma.MulticastCase;
using static Wayleave.Lab.Rdma.TransportCases;

namespace Wayleave.Lab.Rdma;

/// <summary>The guest's side of <c>rxe-multicast</c>: the kernel's rxe, attached to a group by libibverbs.</summary>
internal static unsafe class KernelMulticast
{
    private const uint HeaderFlag = 1; // IBV_WC_GRH

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_again = TimeSpan.FromMilliseconds(200);

    /// <summary>The argument is the device's name.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not [string name])
        {
            return ExitCodes.Usage;
        }

        VerbsDevice device = new(name);
        foreach (MulticastCase link in All)
        {
            string? wrong = Play(device, link);
            Console.WriteLine($"{link.Name}: {wrong ?? "ok"}");
            Rendezvous.Leave($"{link.Name}.verdict", wrong ?? "");
            if (wrong is not null)
            {
                return ExitCodes.Failed;
            }
        }

        return ExitCodes.Done;
    }

    private static string? Play(VerbsDevice device, MulticastCase link)
    {
        // rxe attaches a queue pair; that the host is in the group is rdma_cm's work, or here ours.
        using Socket member = link.Join();
        device.Memory.Clear();
        Dialog.Fill(device.Memory.Slice(OwnAt, Bytes), KernelSeed);
        int gid = device.FindGid(link.Guest);
        Verbs.QueuePair* pair = device.CreateQueuePair(Verbs.QpTypeUd, qkey: QKey);
        device.PostReceive(pair, ReceivedAt, Bytes + DatagramHeaderBytes);
        VerbsDevice.Attach(pair, link.Group);
        PairEnds group = new(gid, Psn: 0, link.Group, MulticastCase.QueuePair, PeerPsn: 0, PathMtu: 1024);
        VerbsDevice.Connect(pair, Verbs.QpTypeUd, group);
        Rendezvous.Leave($"{link.Name}.guest", new PeerEnd(link.Guest.ToString(), pair->Number, 0, 0, 0));
        PeerEnd host = Rendezvous.Await<PeerEnd>($"{link.Name}.host");

        // The host has sent to the other group first.
        Verbs.WorkCompletion received = device.Wait("the host's datagram", s_limit);
        Span<byte> arrived = device.Memory.Slice(ReceivedAt, Bytes + DatagramHeaderBytes);
        string? wrong = received.Status != 0 ? $"the receive ended with status {received.Status}"
            : received.Length != Bytes + DatagramHeaderBytes ? $"{received.Length} bytes were received"
            : (received.Flags & HeaderFlag) == 0 ? "no header stands before the data"
            : received.SourceQueuePair != host.QueuePair ? $"from queue pair {received.SourceQueuePair}"
            : link.CheckHeader(arrived[..DatagramHeaderBytes])
                ?? Dialog.Check(arrived[DatagramHeaderBytes..], OurSeed, "datagram of the host");
        if (wrong is not null)
        {
            return wrong;
        }

        // Again until the host has one: a datagram may be lost.
        ulong handle = device.CreateAddressHandle(group);
        Stopwatch watch = Stopwatch.StartNew();
        int sends = 0;
        do
        {
            device.Post(
                pair, Verbs.OpSendImmediate, OwnAt, Bytes, handle, MulticastCase.QueuePair | (ulong)QKey << 32,
                immediate: Dialog.Immediate);
            Verbs.WorkCompletion sent = device.Wait("the kernel's datagram", s_limit);
            if (sent.Status != 0)
            {
                return $"the kernel's datagram ended with status {sent.Status}";
            }

            sends++;
            Thread.Sleep(s_again);
        }
        while (!Rendezvous.Has($"{link.Name}.end") && watch.Elapsed < s_limit);

        Rendezvous.Await<string>($"{link.Name}.end");
        Console.WriteLine($"{link.Name}: the host had one of {sends}");
        VerbsDevice.Detach(pair, link.Group);
        Verbs.ibv_destroy_qp(pair);
        return null;
    }
}
