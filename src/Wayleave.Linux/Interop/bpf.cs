namespace Wayleave.Linux.Interop;

// <linux/bpf.h>
internal static class bpf
{
    internal const int BPF_PROG_LOAD = 5;
    internal const uint BPF_PROG_TYPE_SOCKET_FILTER = 1;

    internal const byte BPF_LD = 0x00;
    internal const byte BPF_LDX = 0x01;
    internal const byte BPF_JMP = 0x05;
    internal const byte BPF_JMP32 = 0x06;
    internal const byte BPF_ALU = 0x04;
    internal const byte BPF_ALU64 = 0x07;

    internal const byte BPF_W = 0x00;
    internal const byte BPF_H = 0x08;
    internal const byte BPF_B = 0x10;
    internal const byte BPF_ABS = 0x20;
    internal const byte BPF_MEM = 0x60;

    internal const byte BPF_K = 0x00;
    internal const byte BPF_X = 0x08;
    internal const byte BPF_AND = 0x50;
    internal const byte BPF_MOV = 0xb0;
    internal const byte BPF_JA = 0x00;
    internal const byte BPF_JEQ = 0x10;
    internal const byte BPF_JNE = 0x50;
    internal const byte BPF_EXIT = 0x90;

    // The member of union bpf_attr that BPF_PROG_LOAD takes, as far as Linux 4.16 has it. It has no name in C.
    internal unsafe struct attr_prog_load
    {
        internal uint prog_type;
        internal uint insn_cnt;
        internal ulong insns;
        internal ulong license;
        internal uint log_level;
        internal uint log_size;
        internal ulong log_buf;
        internal uint kern_version;
        internal uint prog_flags;
        internal fixed byte prog_name[16];
        internal uint prog_ifindex;
        internal uint expected_attach_type;
    }
}
