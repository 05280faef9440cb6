using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Entries;

/// <summary>What control calls have in common.</summary>
internal static class Control
{
    /// <summary>
    /// Runs a control call. What the kernel refuses, the address of the port above all, is its errno, and is said on
    /// the standard error as well: an errno alone cannot say who has the address.
    /// </summary>
    public static int Run(Func<Errno> call)
    {
        try
        {
            return (int)call();
        }
        catch (LinuxException e)
        {
            Console.Error.WriteLine($"wayleave: {e.Message}");
            return (int)e.Errno;
        }
        catch (OutOfMemoryException)
        {
            return (int)Errno.ENOMEM;
        }
    }
}
