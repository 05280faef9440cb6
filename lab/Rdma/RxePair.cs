using System.Net;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// Two of the kernel's devices with a queue pair each, connected: A asks, B answers. The vocabulary of
/// <see cref="RxeDialogs"/>.
/// </summary>
internal sealed unsafe class RxePair : IDisposable
{
    internal const uint PsnA = 0xa00000;
    internal const uint PsnB = 0xb00000;

    private const uint QKey = 0x11111111;

    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    private readonly int _type;
    private readonly Verbs.QueuePair* _a;
    private readonly Verbs.QueuePair* _b;
    private readonly ulong _handle;

    internal RxePair(VerbsDevice a, VerbsDevice b, DialogCase dialog)
    {
        (A, B, _type) = (a, b, dialog.Type);
        IPAddress addressA = IPAddress.Parse(dialog.IsIpv6 ? "fd77::1" : "10.77.0.1");
        IPAddress addressB = IPAddress.Parse(dialog.IsIpv6 ? "fd77::2" : "10.77.0.2");
        _a = a.CreateQueuePair(_type, qkey: QKey);
        _b = b.CreateQueuePair(_type, dialog.Access, QKey);
        PairEnds ends = new(a.FindGid(addressA), dialog.Psn, addressB, _b->Number, PsnB, dialog.Mtu);
        VerbsDevice.Connect(_a, _type, ends);
        VerbsDevice.Connect(_b, _type, new PairEnds(
            b.FindGid(addressB), PsnB, addressA, _a->Number, dialog.Psn, dialog.Mtu));
        _handle = _type == Verbs.QpTypeUd ? a.CreateAddressHandle(ends) : 0;
        a.Memory.Clear();
        b.Memory.Clear();
    }

    internal bool IsDatagram => _type == Verbs.QpTypeUd;

    internal VerbsDevice A { get; }

    internal VerbsDevice B { get; }

    /// <summary>No completion is left on either side.</summary>
    internal bool IsQuiet => !A.TryTake(out _) && !B.TryTake(out _);

    /// <summary>What completed: side, opcode, status, length.</summary>
    internal List<string> Completions { get; } = [];

    internal void Send(int length, uint? immediate = null)
    {
        int opcode = immediate is null ? Verbs.OpSend : Verbs.OpSendImmediate;
        ulong destination = _b->Number | ((ulong)QKey << 32);
        A.Post(_a, opcode, 0, length, a: _handle, b: destination, immediate: immediate ?? 0);
    }

    internal void Write(int length, int at, uint? immediate = null, uint? key = null) => A.Post(
        _a, immediate is null ? Verbs.OpWrite : Verbs.OpWriteImmediate, 0, length, a: B.Address + (ulong)at,
        b: key ?? B.RKey, immediate: immediate ?? 0);

    internal void Read(int length, int at, int into, uint? key = null) =>
        A.Post(_a, Verbs.OpRead, into, length, a: B.Address + (ulong)at, b: key ?? B.RKey);

    internal void Atomic(int opcode, int at, int into, ulong compareOrAdd, ulong swap) =>
        A.Post(_a, opcode, into, 8, a: B.Address + (ulong)at, b: compareOrAdd, c: swap, d: B.RKey);

    /// <summary>B expects a message of at most that many bytes, at 64 KiB of its memory.</summary>
    internal void Receive(int length) => B.PostReceive(_b, 65536, length);

    /// <summary>Waits for a completion on each side named: <c>"AB"</c> is one of A's and then one of B's.</summary>
    internal void Expect(string sides)
    {
        foreach (char side in sides)
        {
            Verbs.WorkCompletion completion = (side == 'A' ? A : B).Wait($"completion of {side}", s_limit);
            string length = completion.Status == 0 ? $" opcode {completion.Opcode} length {completion.Length}" : "";
            Completions.Add($"{side} status {completion.Status}{length}");
        }
    }

    public void Dispose()
    {
        Verbs.ibv_destroy_qp(_a);
        Verbs.ibv_destroy_qp(_b);
    }
}
