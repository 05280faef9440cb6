using System.Globalization;
using System.Net.Sockets;
using System.Text;
using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;
using Wayleave.Ports.Programs;

namespace Wayleave.Host.Programs;

/// <summary>Disturbs a program of libibverbs that is running: the other end of <see cref="FaultSocket"/>.</summary>
public static class FaultClient
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(5);

    /// <summary>Asks for something, and waits a few seconds for the answer.</summary>
    /// <param name="processId">Whose devices are meant.</param>
    /// <param name="request">
    /// Faults as text, <see cref="FaultSocket.List"/> or <see cref="FaultSocket.Clear"/>.
    /// </param>
    /// <returns>What the program says; of a list a JSON object.</returns>
    /// <exception cref="WayleaveException">
    /// ESRCH for a process that is not there or ends before it answers, ENOENT for one that has no device or has not
    /// used it yet, EINVAL for what the program refuses, ETIMEDOUT for one that is stopped, EACCES for one of another
    /// user.
    /// </exception>
    public static string Ask(int processId, string request)
    {
        string operation = string.Create(CultureInfo.InvariantCulture, $"disturb process {processId}");
        if (!Directory.Exists(string.Create(CultureInfo.InvariantCulture, $"/proc/{processId}")))
        {
            throw new WayleaveException(Errno.ESRCH, operation, "there is no such process", null);
        }

        MessageSocket program;
        try
        {
            program = MessageSocket.Connect(FaultSocket.NameOf(processId));
        }
        catch (SocketException)
        {
            throw new WayleaveException(
                Errno.ENOENT,
                operation,
                "it has no RDMA device of ours, or has not used it yet",
                "start it by wayleave run; its devices come with its first queue pair");
        }

        using (program)
        {
            // Who listens was recorded as it began: nobody else can pass for the program.
            if (program.Peer.ProcessId != processId
                || (program.Peer.UserId != FileStatus.CurrentUserId && FileStatus.CurrentUserId != 0))
            {
                throw new WayleaveException(Errno.EACCES, operation, "another user's process listens there", null);
            }

            bool isOver = false;
            using Timer timer = new(
                _ =>
                {
                    Volatile.Write(ref isOver, true);
                    program.Shutdown();
                },
                null,
                s_patience,
                Timeout.InfiniteTimeSpan);
            byte[] buffer = new byte[FaultSocket.MessageBytesMax];
            Errno errno = program.Send(Encoding.UTF8.GetBytes(request), []);
            int length = 0;
            if (errno == Errno.Success)
            {
                errno = program.Receive(buffer, out length, out _);
            }

            string answer = Encoding.UTF8.GetString(buffer, 0, length);
            return errno == Errno.Success && answer.StartsWith(FaultSocket.Done, StringComparison.Ordinal)
                ? answer[FaultSocket.Done.Length..]
                : throw Refused(operation, answer, Volatile.Read(ref isOver));
        }
    }

    // A program whose key is revoked may end at once, with its peer.
    private static WayleaveException Refused(string operation, string answer, bool isOver) =>
        answer.StartsWith(FaultSocket.Refused, StringComparison.Ordinal)
            ? new WayleaveException(Errno.EINVAL, operation, answer[FaultSocket.Refused.Length..], null)
            : isOver
            ? new WayleaveException(Errno.ETIMEDOUT, operation, "it did not answer", "is it stopped?")
            : new WayleaveException(
                Errno.ESRCH, operation, "it ended before it answered", "what was asked may have been done");
}
