namespace Wayleave.Linux.Interop;

// include/uapi/linux/userfaultfd.h
internal static class userfaultfd
{
    internal const int UFFD_USER_MODE_ONLY = 1;
}
