using System.Buffers.Binary;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>The guest's side of every dialog: the kernel's rxe, by libibverbs.</summary>
internal static unsafe class KernelPeer
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    /// <summary>Runs them in turn; the argument is the device's name.</summary>
    internal static int Run(string[] arguments)
    {
        if (arguments is not [string name])
        {
            return ExitCodes.Usage;
        }

        VerbsDevice device = new(name);
        foreach (Dialog dialog in Dialog.All)
        {
            string? wrong = Run(device, dialog);
            Console.WriteLine($"{dialog.Name}: {wrong ?? "ok"}");
            Rendezvous.Leave($"{dialog.Name}.verdict", wrong ?? "");
            if (wrong is not null)
            {
                return ExitCodes.Failed;
            }
        }

        return ExitCodes.Done;
    }

    private static string? Run(VerbsDevice device, Dialog dialog)
    {
        const uint psn = 0xfffff0; // wraps on the way
        const int kernelSeed = 0x55, ourSeed = 0x11;
        device.Memory.Clear();
        Dialog.Fill(device.Memory.Slice(Dialog.ServedAt, Dialog.Bytes), kernelSeed);
        Dialog.Fill(device.Memory.Slice(Dialog.OwnAt, Dialog.Bytes), kernelSeed + 1);
        int gid = device.FindGid(dialog.Guest);
        Verbs.QueuePair* pair = device.CreateQueuePair(Verbs.QpTypeRc);
        device.PostReceive(pair, Dialog.ReceivedAt, Dialog.Bytes);
        Rendezvous.Leave($"{dialog.Name}.guest", new PeerEnd(
            dialog.Guest.ToString(), pair->Number, psn, device.RKey, device.Address));
        PeerEnd peer = Rendezvous.Await<PeerEnd>($"{dialog.Name}.host");
        VerbsDevice.Connect(pair, Verbs.QpTypeRc, new PairEnds(
            gid, psn, dialog.Host, peer.QueuePair, peer.Psn, dialog.PathMtu));
        Rendezvous.Leave($"{dialog.Name}.ready", "");

        Verbs.WorkCompletion received = device.Wait("receive of the host's SEND", s_limit);
        string? wrong = received.Status != 0 ? $"the receive ended with status {received.Status}"
            : received.Length != Dialog.SendBytes ? $"{received.Length} bytes were received"
            : received.Immediate != BinaryPrimitives.ReverseEndianness(Dialog.Immediate)
                ? $"the immediate is {received.Immediate:x8}"
            : Dialog.Check(device.Memory.Slice(Dialog.ReceivedAt, Dialog.SendBytes), ourSeed + 1, "SEND by the host")
                ?? Dialog.Check(device.Memory.Slice(Dialog.WrittenAt, Dialog.Bytes), ourSeed + 1, "WRITE by the host");
        if (wrong is not null)
        {
            return wrong;
        }

        device.Post(
            pair, Verbs.OpWrite, Dialog.OwnAt, Dialog.Bytes, a: peer.Memory + Dialog.WrittenAt, b: peer.Key);
        device.Post(
            pair, Verbs.OpRead, Dialog.ReadAt, Dialog.Bytes, a: peer.Memory + Dialog.ServedAt, b: peer.Key);
        device.Post(pair, Verbs.OpSendImmediate, Dialog.OwnAt, Dialog.SendBytes, immediate: Dialog.Immediate);
        foreach (string what in (ReadOnlySpan<string>)["WRITE", "READ", "SEND"])
        {
            Verbs.WorkCompletion completion = device.Wait($"{what} by the kernel", s_limit);
            if (completion.Status != 0)
            {
                return $"{what} by the kernel ended with status {completion.Status}";
            }
        }

        wrong = Dialog.Check(device.Memory.Slice(Dialog.ReadAt, Dialog.Bytes), ourSeed, "READ by the kernel");
        Rendezvous.Leave($"{dialog.Name}.done", "");
        Rendezvous.Await<string>($"{dialog.Name}.refused");
        Verbs.ibv_destroy_qp(pair);
        return wrong;
    }
}
