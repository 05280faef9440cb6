using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using Wayleave.Core;

namespace Wayleave.Linux;

// The one place where error numbers become exceptions and where they are read. The data path returns Errno instead.

/// <summary>
/// A system call of the control path failed. The message names the call, the object it was made on, the reason, and
/// where there is something to do about it, what.
/// </summary>
public sealed class LinuxException : IOException
{
    /// <param name="call">The system call as its man page is called, or the option that was set.</param>
    /// <param name="subject">What the call was made on: an address, a file, a length.</param>
    /// <param name="errno">Why it failed; also kept as <see cref="Exception.HResult"/>.</param>
    /// <param name="advice">What the user can do, or null.</param>
    public LinuxException(string call, string subject, Errno errno, string? advice = null)
        : base(Describe(call, subject, errno, advice), (int)errno) =>
        (Call, Subject, Errno) = (call, subject, errno);

    public string Call { get; }

    public string Subject { get; }

    public Errno Errno { get; }

    /// <summary>Throws for the call that just failed with SetLastError; nothing may stand between the two.</summary>
    [DoesNotReturn]
    internal static void Throw(string call, string subject) =>
        throw new LinuxException(call, subject, (Errno)Marshal.GetLastPInvokeError());

    /// <summary>Why the call in the previous statement failed, for calls made without SetLastError.</summary>
    internal static Errno LastErrno() => (Errno)Marshal.GetLastSystemError();

    private static string Describe(string call, string subject, Errno errno, string? advice)
    {
        string reason = $"{call} {subject}: {Marshal.GetPInvokeErrorMessage((int)errno)} ({errno})";
        return advice is null ? reason : $"{reason}; {advice}";
    }
}
