namespace Wayleave.Linux.Interop;

// include/uapi/linux/sync_file.h
internal static unsafe class sync_file
{
    internal static readonly nuint SYNC_IOC_MERGE = ioctl._IOWR('>', 3, sizeof(sync_merge_data));
    internal static readonly nuint SYNC_IOC_FILE_INFO = ioctl._IOWR('>', 4, sizeof(sync_file_info));
}

internal unsafe struct sync_merge_data
{
    internal fixed byte name[32];
    internal int fd2;
    internal int fence;
    internal uint flags;
    internal uint pad;
}

internal unsafe struct sync_fence_info
{
    internal fixed byte obj_name[32];
    internal fixed byte driver_name[32];
    internal int status;
    internal uint flags;
    internal ulong timestamp_ns;
}

internal unsafe struct sync_file_info
{
    internal fixed byte name[32];
    internal int status;
    internal uint flags;
    internal uint num_fences;
    internal uint pad;
    internal ulong sync_fence_info;
}

// Since Linux 6.6.
internal static unsafe class sync_file_deadline
{
    internal static readonly nuint SYNC_IOC_SET_DEADLINE = ioctl._IOW('>', 5, sizeof(sync_set_deadline));
}

internal struct sync_set_deadline
{
    internal ulong deadline_ns;
    internal ulong pad;
}
