using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

// Read first: linux:drivers/net/tun.c, tun_select_queue() and tun_ebpf_select_queue();
// Documentation/bpf/standardization.
//
//   r6 = the frame
//   tagged, another destination, neither IPv4 nor IPv6, options, a fragment, not TCP    -> queue 0
//   each flow in order: a field differs -> the next one; all are equal                  -> its queue
//   no flow                                                                             -> queue 0
//
// A load beyond the end of the frame ends the program with 0. The kernel takes the result modulo the number of queues.

/// <summary>
/// The program by which the kernel chooses the queue of a TAP device for each frame that it sends there.
/// </summary>
internal sealed class TapSteering
{
    /// <summary>Flows that one program tells apart: a jump to its end must fit 15 bits.</summary>
    internal const int FlowsMax = 256;

    private const byte Frame = 6; // the register; loads clobber 0 to 5
    private const int VlanPresentOffset = 20; // of struct __sk_buff
    private const int NetworkOffset = 14;
    private const ushort IPv4 = 0x0800, IPv6 = 0x86DD;
    private const byte Tcp = 6;

    private readonly List<ulong> _code = [];
    private readonly List<int> _toEnd = []; // jumps
    private readonly List<int> _toNext = [];

    private TapSteering()
    {
    }

    /// <summary>Loads the program for some flows.</summary>
    /// <param name="destination">The Ethernet address of frames that are looked at, in the low 48 bits.</param>
    /// <param name="flows">At most <see cref="FlowsMax"/>.</param>
    /// <param name="program">Owned by the caller; null on failure.</param>
    /// <returns>EPERM without CAP_BPF; ENOSYS from a kernel without bpf(2); E2BIG for too many flows.</returns>
    internal static Errno TryLoad(ulong destination, ReadOnlySpan<TapFlow> flows, out FileDescriptor? program)
    {
        program = null;
        return flows.Length > FlowsMax ? Errno.E2BIG : TryLoad(Compile(destination, flows), out program);
    }

    /// <summary>The instructions, each as the kernel has it in memory on this machine.</summary>
    internal static ulong[] Compile(ulong destination, ReadOnlySpan<TapFlow> flows)
    {
        TapSteering program = new();
        program.Compare(destination);
        int toIPv6 = program.BranchOnVersion();
        program.AddFlows(flows, isIPv4: true);
        program.End();
        program.Land(toIPv6);
        program.CheckIPv6();
        program.AddFlows(flows, isIPv4: false);
        program.LandAtEnd();
        program.End();
        return [.. program._code];
    }

    private static unsafe Errno TryLoad(ulong[] code, out FileDescriptor? program)
    {
        byte* license = stackalloc byte[] { (byte)'M', (byte)'I', (byte)'T', 0 };
        fixed (ulong* instructions = code)
        {
            bpf.attr_prog_load load = new()
            {
                prog_type = bpf.BPF_PROG_TYPE_SOCKET_FILTER,
                insn_cnt = (uint)code.Length,
                insns = (ulong)instructions,
                license = (ulong)license,
            };
            Encoding.ASCII.GetBytes("wl_tap_steer", new Span<byte>(load.prog_name, 16));
            nint fd = Libc.bpf(unistd.SYS_bpf, bpf.BPF_PROG_LOAD, &load, (uint)sizeof(bpf.attr_prog_load));
            Errno errno = fd < 0 ? (Errno)Marshal.GetLastPInvokeError() : Errno.Success;
            program = fd < 0 ? null : new FileDescriptor((int)fd, ownsHandle: true);
            return errno;
        }
    }

    private void Compare(ulong destination)
    {
        Emit(bpf.BPF_ALU64 | bpf.BPF_MOV | bpf.BPF_X, destination: Frame, source: 1);
        Emit(bpf.BPF_LDX | bpf.BPF_MEM | bpf.BPF_W, source: Frame, offset: VlanPresentOffset);
        UnlessEqual(0, _toEnd);
        Load(bpf.BPF_W, 0);
        UnlessEqual((uint)(destination >> 16), _toEnd);
        Load(bpf.BPF_H, 4);
        UnlessEqual((ushort)destination, _toEnd);
    }

    // Returns the jump of what is not IPv4.
    private int BranchOnVersion()
    {
        Load(bpf.BPF_H, 12);
        int toIPv6 = _code.Count;
        Emit(bpf.BPF_JMP32 | bpf.BPF_JNE | bpf.BPF_K, immediate: IPv4);
        Load(bpf.BPF_B, NetworkOffset);
        UnlessEqual(0x45, _toEnd);
        Load(bpf.BPF_H, NetworkOffset + 6);
        Mask(0x3FFF); // more fragments, and the offset
        UnlessEqual(0, _toEnd);
        Load(bpf.BPF_B, NetworkOffset + 9);
        UnlessEqual(Tcp, _toEnd);
        return toIPv6;
    }

    private void CheckIPv6()
    {
        UnlessEqual(IPv6, _toEnd); // the type is in the register still
        Load(bpf.BPF_B, NetworkOffset);
        Mask(0xF0);
        UnlessEqual(0x60, _toEnd);
        Load(bpf.BPF_B, NetworkOffset + 6);
        UnlessEqual(Tcp, _toEnd);
    }

    private void AddFlows(ReadOnlySpan<TapFlow> flows, bool isIPv4)
    {
        int addressBytes = isIPv4 ? 4 : 16;
        int source = NetworkOffset + (isIPv4 ? 12 : 8);
        int ports = source + (2 * addressBytes);
        foreach (ref readonly TapFlow flow in flows)
        {
            if (flow.IsIPv4 != isIPv4)
            {
                continue;
            }

            CompareAddress(source, addressBytes, flow.Source, flow.SourceMask);
            CompareAddress(source + addressBytes, addressBytes, flow.Destination, flow.DestinationMask);
            CompareField(bpf.BPF_H, ports, flow.SourcePort, flow.SourcePortMask, ushort.MaxValue);
            CompareField(bpf.BPF_H, ports + 2, flow.DestinationPort, flow.DestinationPortMask, ushort.MaxValue);
            Return(flow.Queue);
            foreach (int jump in _toNext)
            {
                Land(jump);
            }

            _toNext.Clear();
        }
    }

    private void CompareAddress(int offset, int lengthBytes, UInt128 value, UInt128 mask)
    {
        for (int i = 0; i < lengthBytes; i += sizeof(uint))
        {
            int shift = 8 * (lengthBytes - sizeof(uint) - i);
            CompareField(bpf.BPF_W, offset + i, (uint)(value >> shift), (uint)(mask >> shift), uint.MaxValue);
        }
    }

    private void CompareField(byte size, int offset, uint value, uint mask, uint full)
    {
        if (mask == 0)
        {
            return;
        }

        Load(size, offset);
        if (mask != full)
        {
            Mask(mask);
        }

        UnlessEqual(value & mask, _toNext);
    }

    private void End() => Return(0);

    private void Return(int queue)
    {
        Emit(bpf.BPF_ALU64 | bpf.BPF_MOV | bpf.BPF_K, immediate: (uint)queue);
        Emit(bpf.BPF_JMP | bpf.BPF_EXIT);
    }

    private void Load(byte size, int offset) => Emit((byte)(bpf.BPF_LD | bpf.BPF_ABS | size), immediate: (uint)offset);

    private void Mask(uint mask) => Emit(bpf.BPF_ALU | bpf.BPF_AND | bpf.BPF_K, immediate: mask);

    private void UnlessEqual(uint value, List<int> jumps)
    {
        jumps.Add(_code.Count);
        Emit(bpf.BPF_JMP32 | bpf.BPF_JNE | bpf.BPF_K, immediate: value);
    }

    private void LandAtEnd()
    {
        foreach (int jump in _toEnd)
        {
            Land(jump);
        }
    }

    // A jump counts from the instruction behind it.
    private void Land(int jump)
    {
        Span<byte> instruction = stackalloc byte[sizeof(ulong)];
        MemoryMarshal.Write(instruction, _code[jump]);
        MemoryMarshal.Write(instruction[2..], checked((short)(_code.Count - jump - 1)));
        _code[jump] = MemoryMarshal.Read<ulong>(instruction);
    }

    // struct bpf_insn: code, two registers of four bits each, offset, immediate.
    private void Emit(byte code, byte destination = 0, byte source = 0, short offset = 0, uint immediate = 0)
    {
        Span<byte> instruction = stackalloc byte[sizeof(ulong)];
        instruction[0] = code;
        instruction[1] = BitConverter.IsLittleEndian
            ? (byte)(destination | (source << 4))
            : (byte)((destination << 4) | source);
        MemoryMarshal.Write(instruction[2..], offset);
        MemoryMarshal.Write(instruction[4..], immediate);
        _code.Add(MemoryMarshal.Read<ulong>(instruction));
    }
}
