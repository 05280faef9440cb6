namespace Wayleave.Linux.Interop;

// <linux/genetlink.h>
internal static class genetlink
{
    internal const ushort GENL_ID_CTRL = 0x10;
    internal const byte CTRL_CMD_GETFAMILY = 3;
    internal const ushort CTRL_ATTR_FAMILY_ID = 1;
    internal const ushort CTRL_ATTR_FAMILY_NAME = 2;
    internal const ushort CTRL_ATTR_OPS = 6;
    internal const ushort CTRL_ATTR_OP_ID = 1;
}

internal struct genlmsghdr
{
    internal byte cmd;
    internal byte version;
    internal ushort reserved;
}
