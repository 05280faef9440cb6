using System.Diagnostics;
using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Ibverbs.Observation;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Entries;

/// <summary>What control calls have in common.</summary>
internal static class Control
{
    /// <summary>
    /// Runs a control call. What the kernel refuses, the address of the port above all, is its errno, and is said on
    /// the standard error as well: an errno alone cannot say who has the address.
    /// </summary>
    /// <param name="call">Returns its errno.</param>
    /// <param name="name">For the trace.</param>
    public static int Run(Func<Errno> call, [CallerMemberName] string name = "")
    {
        if (ProgramTrace.Instance is not { } trace)
        {
            return (int)Try(call);
        }

        long start = Stopwatch.GetTimestamp();
        Errno errno = Try(call);
        trace.AddCall(name, start, errno);
        trace.Flush();
        return (int)errno;
    }

    private static Errno Try(Func<Errno> call)
    {
        try
        {
            return call();
        }
        catch (LinuxException e)
        {
            Console.Error.WriteLine($"wayleave: {e.Message}");
            return e.Errno;
        }
        catch (IOException e)
        {
            Console.Error.WriteLine($"wayleave: {e.Message}"); // a file that a variable names
            return Errno.EIO;
        }
        catch (OutOfMemoryException)
        {
            return Errno.ENOMEM;
        }
    }
}
