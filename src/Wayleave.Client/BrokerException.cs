using Wayleave.Core;

namespace Wayleave.Client;

/// <summary>A broker refused, or is gone.</summary>
/// <param name="operation">What was asked for.</param>
/// <param name="errno">Why not: ECONNRESET when the host has died; also <see cref="Exception.HResult"/>.</param>
/// <param name="reason">In the host's words, or null.</param>
public sealed class BrokerException(string operation, Errno errno, string? reason = null)
    : IOException(
        string.IsNullOrEmpty(reason) ? $"{operation}: {errno}" : $"{operation}: {reason} ({errno})", (int)errno)
{
    public Errno Errno { get; } = errno;

    public string Operation { get; } = operation;
}
