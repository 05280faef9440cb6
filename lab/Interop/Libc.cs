using System.Runtime.InteropServices;

namespace Wayleave.Lab.Interop;

/// <summary>
/// The C library as the lab needs it; results are the C functions' own, the error is in the last P/Invoke error.
/// </summary>
internal static partial class Libc
{
    internal static bool IsRoot => geteuid() == 0;

    [LibraryImport("libc")]
    private static partial uint geteuid();
}
