using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs;

// As WorkLists: no allocation, no exception, no lock but the poll flag of the queue.

/// <summary>Completions as C programs take them.</summary>
[SkipLocalsInit]
internal static unsafe class Completions
{
    private const int BatchMax = 32;

    /// <summary><c>ibv_poll_cq</c>.</summary>
    /// <param name="queue">What to take from.</param>
    /// <param name="count">Room; none for a number that is not positive.</param>
    /// <param name="completions">Filled from the first on.</param>
    /// <param name="level">As of <see cref="Write"/>.</param>
    /// <returns>How many were filled.</returns>
    public static int Poll(
        CompletionQueue queue, int count, ibv_wc* completions, DatagramLevel level = DatagramLevel.IPv4)
    {
        Span<WorkCompletion> batch = stackalloc WorkCompletion[BatchMax];
        int done = 0;
        while (done < count)
        {
            int found = queue.Poll(batch[..Math.Min(count - done, BatchMax)]);
            for (int i = 0; i < found; i++)
            {
                Write(batch[i], out completions[done + i], level);
            }

            done += found;
            if (found < BatchMax)
            {
                break;
            }
        }

        return done;
    }

    /// <summary>The number that stands for a failure in <c>vendor_err</c>: that of the status.</summary>
    public static uint VendorError(WorkCompletionStatus status) => (uint)status;

    /// <summary>One completion as C knows it.</summary>
    /// <param name="completion">Ours.</param>
    /// <param name="wc">All of it is written.</param>
    /// <param name="level">What <c>sl</c> says of a datagram with a header before it.</param>
    public static void Write(in WorkCompletion completion, out ibv_wc wc, DatagramLevel level)
    {
        bool hasHeader = (completion.Flags & WorkCompletionFlags.Grh) != 0;
        bool hasImmediate = (completion.Flags & WorkCompletionFlags.WithImmediate) != 0;
        wc = new ibv_wc
        {
            wr_id = completion.WrId,
            status = (uint)completion.Status,
            opcode = (uint)completion.Opcode,
            vendor_err = VendorError(completion.Status),
            byte_len = completion.ByteLength,
            imm_data = hasImmediate
                ? BinaryPrimitives.ReverseEndianness(completion.Immediate)
                : completion.InvalidatedKey,
            qp_num = completion.QpNumber,
            src_qp = completion.SourceQp,
            wc_flags = (uint)completion.Flags,
            sl = hasHeader ? (byte)level : (byte)0,
        };
    }
}

/// <summary>
/// The service level of a received datagram, which Ethernet does not have. mlx5 puts the kind of RoCE packet there, and
/// UCX takes the length of the GID that the datagram was sent to from it (<c>uct_ud_iface_check_grh</c>).
/// </summary>
internal enum DatagramLevel : byte
{
    IPv6 = 1,
    IPv4 = 2,
}
