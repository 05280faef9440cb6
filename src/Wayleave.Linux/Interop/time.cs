namespace Wayleave.Linux.Interop;

// <time.h>
internal struct timespec
{
    internal long tv_sec;
    internal long tv_nsec;
}
