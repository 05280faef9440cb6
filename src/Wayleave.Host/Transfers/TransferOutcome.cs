using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Transfers;

/// <summary>What a failed work request means to a user. Total over the statuses.</summary>
public static class TransferOutcome
{
    /// <summary>Throws unless the status is success.</summary>
    /// <param name="status">How the transfer ended.</param>
    /// <param name="operation">What was tried, with its object.</param>
    /// <param name="peer">The host at the other end.</param>
    /// <param name="owner">The host of the memory at this end; null for this process itself.</param>
    /// <exception cref="WayleaveException">Names the peer, the reason and what to do.</exception>
    public static void ThrowIfFailed(
        this WorkCompletionStatus status, string operation, string peer, string? owner = null)
    {
        if (status == WorkCompletionStatus.Success)
        {
            return;
        }

        (Errno errno, string reason, string? remedy) = status switch
        {
            WorkCompletionStatus.RetryExceeded or WorkCompletionStatus.RnrRetryExceeded =>
                (Errno.ETIMEDOUT,
                    $"{peer} does not answer any more",
                    "see whether that host is still running, then start again"),
            WorkCompletionStatus.RemoteAccessError =>
                (Errno.EACCES, $"{peer} took the memory back", "ask its owner for a new object, then start again"),
            WorkCompletionStatus.RemoteInvalidRequest or WorkCompletionStatus.RemoteOperationError
                or WorkCompletionStatus.BadResponse =>
                (Errno.EREMOTEIO, $"{peer} refused the request ({status})", (string?)null),
            WorkCompletionStatus.LocalProtectionError or WorkCompletionStatus.LocalAccessError =>
                (Errno.ENODEV,
                    owner is null ? "the local memory was taken back by its owner" : $"{owner} took the object back",
                    null),
            _ => (Errno.EIO, $"the queue pair failed ({status})", null),
        };
        throw new WayleaveException(errno, operation, reason, remedy);
    }
}
