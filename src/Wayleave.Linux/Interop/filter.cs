namespace Wayleave.Linux.Interop;

// <linux/filter.h>
internal static class filter
{
    internal const int BPF_RET = 0x06;
    internal const int BPF_K = 0x00;
}

internal struct sock_filter
{
    internal ushort code;
    internal byte jt;
    internal byte jf;
    internal uint k;
}

internal unsafe struct sock_fprog
{
    internal ushort len;
    internal sock_filter* filter;
}
