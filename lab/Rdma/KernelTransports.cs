using System.Buffers.Binary;
using Wayleave.Lab.Interop;
using static Wayleave.Lab.Rdma.TransportCases;

namespace Wayleave.Lab.Rdma;

/// <summary>The guest's side of <c>rxe-transports</c>: the kernel's rxe, by libibverbs.</summary>
internal static unsafe class KernelTransports
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    /// <summary>The argument is the device's name.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not [string name])
        {
            return ExitCodes.Usage;
        }

        VerbsDevice device = new(name);
        foreach (Dialog link in Dialog.All)
        {
            int gid = device.FindGid(link.Guest);
            (string Name, Func<string?> Play)[] cases =
            [
                ("atomics", () => PlayAtomics(device, link, gid)),
                ("uc", () => PlayMessages(device, link, gid, Verbs.QpTypeUc, LongBytes(link))),
                ("ud", () => PlayMessages(device, link, gid, Verbs.QpTypeUd, DatagramBytes(link))),
            ];
            foreach ((string caseName, Func<string?> play) in cases)
            {
                string? wrong = play();
                Console.WriteLine($"{link.Name} {caseName}: {wrong ?? "ok"}");
                Rendezvous.Leave($"{link.Name}.{caseName}.verdict", wrong ?? "");
                if (wrong is not null)
                {
                    return ExitCodes.Failed;
                }
            }
        }

        return ExitCodes.Done;
    }

    private static string? PlayAtomics(VerbsDevice device, Dialog link, int gid)
    {
        device.Memory.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(device.Memory[WordAt..], First);
        Verbs.QueuePair* pair = device.CreateQueuePair(Verbs.QpTypeRc);
        PeerEnd peer = Meet("atomics", device, pair, link, gid, Verbs.QpTypeRc, out _);

        // The host's turn: it swaps, and adds.
        Rendezvous.Await<string>($"{link.Name}.atomics.hostdone");
        ulong there = BinaryPrimitives.ReadUInt64LittleEndian(device.Memory[WordAt..]);
        if (there != unchecked(Swapped + Added))
        {
            return $"the host's atomics left {there:x16}";
        }

        ulong word = peer.Memory + WordAt;
        device.Post(pair, Verbs.OpCompareSwap, OwnAt, 8, word, First, Swapped, peer.Key);
        device.Post(pair, Verbs.OpCompareSwap, OwnAt + 8, 8, word, First, 0, peer.Key);
        device.Post(pair, Verbs.OpFetchAdd, OwnAt + 16, 8, word, Added, 0, peer.Key);
        for (int i = 0; i < 3; i++)
        {
            Verbs.WorkCompletion completion = device.Wait($"atomic {i + 1} by the kernel", s_limit);
            if (completion.Status != 0)
            {
                return $"atomic {i + 1} by the kernel ended with status {completion.Status}";
            }
        }

        Span<byte> own = device.Memory[OwnAt..];
        (ulong, ulong, ulong) before = (
            BinaryPrimitives.ReadUInt64LittleEndian(own),
            BinaryPrimitives.ReadUInt64LittleEndian(own[8..]),
            BinaryPrimitives.ReadUInt64LittleEndian(own[16..]));
        Rendezvous.Leave($"{link.Name}.atomics.guestdone", "");
        Rendezvous.Await<string>($"{link.Name}.atomics.end");
        Verbs.ibv_destroy_qp(pair);
        return before == (First, Swapped, Swapped) ? null : $"the kernel's atomics brought {before} back";
    }

    private static string? PlayMessages(VerbsDevice device, Dialog link, int gid, int type, int bytes)
    {
        string name = type == Verbs.QpTypeUc ? "uc" : "ud";
        bool isDatagram = type == Verbs.QpTypeUd;
        int header = isDatagram ? DatagramHeaderBytes : 0;
        device.Memory.Clear();
        Dialog.Fill(device.Memory.Slice(OwnAt, bytes), KernelSeed);
        Verbs.QueuePair* pair = device.CreateQueuePair(type, qkey: isDatagram ? QKey : 0);
        device.PostReceive(pair, ReceivedAt, bytes + header);
        PeerEnd peer = Meet(name, device, pair, link, gid, type, out PairEnds ends);

        Verbs.WorkCompletion received = device.Wait("the host's message", s_limit);
        string? wrong = received.Status != 0 ? $"the receive ended with status {received.Status}"
            : received.Length != (uint)(bytes + header) ? $"{received.Length} bytes were received"
            : Dialog.Check(device.Memory.Slice(ReceivedAt + header, bytes), OurSeed, "message of the host");
        if (wrong is not null)
        {
            return wrong;
        }

        ulong handle = isDatagram ? device.CreateAddressHandle(ends) : 0;
        device.Post(
            pair, Verbs.OpSendImmediate, OwnAt, bytes, handle, peer.QueuePair | (ulong)QKey << 32,
            immediate: Dialog.Immediate);
        Verbs.WorkCompletion sent = device.Wait("the kernel's message", s_limit);
        Rendezvous.Await<string>($"{link.Name}.{name}.end");
        Verbs.ibv_destroy_qp(pair);
        return sent.Status == 0 ? null : $"the kernel's message ended with status {sent.Status}";
    }

    private static PeerEnd Meet(
        string name, VerbsDevice device, Verbs.QueuePair* pair, Dialog link, int gid, int type, out PairEnds ends)
    {
        const uint psn = 0xfffffe; // wraps on the way
        Rendezvous.Leave($"{link.Name}.{name}.guest", new PeerEnd(
            link.Guest.ToString(), pair->Number, psn, device.RKey, device.Address));
        PeerEnd peer = Rendezvous.Await<PeerEnd>($"{link.Name}.{name}.host");
        ends = new PairEnds(gid, psn, link.Host, peer.QueuePair, peer.Psn, link.PathMtu);
        VerbsDevice.Connect(pair, type, ends);
        Rendezvous.Leave($"{link.Name}.{name}.ready", "");
        return peer;
    }
}
