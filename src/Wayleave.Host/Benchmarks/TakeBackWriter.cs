using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Benchmarks;

/// <summary>The peer in the revoke test: writes into what it was lent until it is refused.</summary>
internal sealed class TakeBackWriter(BenchmarkEnd end, BenchmarkOptions options)
{
    private const int PollBatch = 16;

    private QueuePair? _pair;
    private uint _psn;

    /// <summary>A queue pair in place of the one that went to ERR.</summary>
    public EndMessage Renew()
    {
        if (_pair is not null)
        {
            end.Nic.Destroy(_pair);
        }

        _pair = end.Nic.CreateQueuePair(
            end.Region.Domain,
            end.Sends,
            end.Receives,
            new QueuePairCapabilities { MaxSendWr = options.Depth, MaxReceiveWr = 1 });
        _psn = end.Nic.ChoosePsn();
        return new EndMessage(
            [PairMessage.From(end.Nic.DescribeEnd(_pair, _psn))],
            end.Region.Key,
            end.Region.Iova,
            end.Region.LengthBytes);
    }

    /// <summary>Returns when every request is back, the first failure having been a remote access error.</summary>
    /// <exception cref="WayleaveException">Refused for another reason, or not refused in time.</exception>
    public void WriteUntilRefused(EndMessage lent, TimeSpan patience)
    {
        end.Nic.Connect(_pair!, lent.Pairs[0].ToEnd(), AccessFlags.None, _psn);
        Span<WorkCompletion> batch = stackalloc WorkCompletion[PollBatch];
        WorkCompletionStatus failure = WorkCompletionStatus.Success;
        ulong slots = lent.LengthBytes / (ulong)options.SizeBytes;
        ulong next = 0;
        int inFlight = 0;
        long start = Stopwatch.GetTimestamp();
        while (failure == WorkCompletionStatus.Success || inFlight > 0)
        {
            while (failure == WorkCompletionStatus.Success && inFlight < options.Depth)
            {
                ulong offset = next++ % slots * (ulong)options.SizeBytes;
                SendWorkRequest request = new()
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = lent.Address + offset,
                    RKey = lent.RKey,
                };
                Errno errno = _pair!.PostSend(
                    request, new Sge(end.Region.Iova + offset, (uint)options.SizeBytes, end.Region.Key));
                errno.ThrowIfFailed("write into lent memory");
                inFlight++;
            }

            end.Nic.Driver.TryProgress();
            int count = end.Sends.Poll(batch);
            inFlight -= count;
            foreach (ref readonly WorkCompletion completion in batch[..count])
            {
                failure = failure == WorkCompletionStatus.Success ? completion.Status : failure;
            }

            if (count == 0 && Stopwatch.GetElapsedTime(start) > patience)
            {
                throw new WayleaveException(
                    Errno.ETIMEDOUT,
                    "write into lent memory",
                    $"it was not taken back within {patience.TotalSeconds} s");
            }
        }

        if (failure != WorkCompletionStatus.RemoteAccessError)
        {
            throw new WayleaveException(
                Errno.EIO, "write into lent memory", $"the first failure was {failure}, not a remote access error");
        }
    }
}
