namespace Wayleave.Linux.Interop;

// <linux/errqueue.h>
internal static class errqueue
{
    internal const byte SO_EE_ORIGIN_ZEROCOPY = 5;
    internal const byte SO_EE_CODE_ZEROCOPY_COPIED = 1;
}

internal struct sock_extended_err
{
    internal uint ee_errno;
    internal byte ee_origin;
    internal byte ee_type;
    internal byte ee_code;
    internal byte ee_pad;
    internal uint ee_info;
    internal uint ee_data;
}
