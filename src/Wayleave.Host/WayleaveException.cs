using Wayleave.Core;

namespace Wayleave.Host;

/// <summary>
/// An operation of the control path failed. The message is one line that names the operation, the object it was about,
/// the reason and, where there is something to do about it, the remedy. <see cref="ErrnoMap"/> says what else becomes
/// one of these.
/// </summary>
public class WayleaveException : IOException
{
    /// <param name="errno">Why it failed; also kept as <see cref="Exception.HResult"/>.</param>
    /// <param name="operation">
    /// What was tried, with its object, as a user would say it: <c>listen on 127.0.0.2:7471</c>.
    /// </param>
    /// <param name="reason">What went wrong, without the operation.</param>
    /// <param name="remedy">What the user can do, or null where nobody can do anything.</param>
    /// <param name="innerException">What it came from.</param>
    public WayleaveException(
        Errno errno, string operation, string reason, string? remedy = null, Exception? innerException = null)
        : base(remedy is null ? $"{operation}: {reason}" : $"{operation}: {reason}; {remedy}", innerException)
    {
        (Errno, Operation, Reason, Remedy) = (errno, operation, reason, remedy);
        HResult = (int)errno;
    }

    public Errno Errno { get; }

    public string Operation { get; }

    public string Reason { get; }

    public string? Remedy { get; }
}
