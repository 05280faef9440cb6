namespace Wayleave.Linux.Interop;

// <signal.h>
internal static class signal
{
    internal const int SIGURG = 23; // ignored unless somebody asks for it
}
