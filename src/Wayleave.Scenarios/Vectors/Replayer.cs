using Wayleave.Devices.Rdma;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// Plays one side of a captured connection with the real RDMA device of this library, on a clock that does not wait,
/// and compares what it does with what the captured stack did.
/// </summary>
public static class Replayer
{
    /// <summary>
    /// Builds the queue pair, memory and work requests of a side, gives it the packets that its peer sent and that were
    /// not lost, and compares: every packet field by field with its ICRC in the capture's framing, what caused a
    /// repetition, the completions, the state of the queue pair and the memory afterwards. Comparison is strict: the
    /// deviations that a description lists as acceptable are not accepted.
    /// </summary>
    /// <param name="capture">Every packet of the pcap file.</param>
    /// <param name="vector">The description that goes with it.</param>
    /// <param name="role">Which side our stack plays.</param>
    /// <param name="profile">
    /// How our side behaves where implementations differ; null is as the captured one. Another shows where it would
    /// not.
    /// </param>
    /// <exception cref="FormatException">
    /// The description contradicts itself or the capture; the message says where in one line.
    /// </exception>
    public static ReplayReport Run(Capture capture, CaptureVector vector, ReplayRole role, PeerProfile? profile = null)
    {
        ArgumentNullException.ThrowIfNull(capture);
        ArgumentNullException.ThrowIfNull(vector);
        if (vector.Packets.Count != capture.Packets.Count)
        {
            throw new FormatException(
                $"the description has {Plural.Of(vector.Packets.Count, "packet")} "
                + $"and the capture {capture.Packets.Count}: they do not belong together");
        }

        if (ReplaySupport.WhyNot(capture, vector) is { } reason)
        {
            return new ReplayReport
            {
                Case = vector.Case,
                Role = role,
                Result = ReplayResult.NotSupported,
                Reason = reason,
                Check = CheckReport.Of(capture),
            };
        }

        if (vector.Replay is not { } replay)
        {
            // Who speaks first is the one that asks, though both may.
            bool isA = vector.Packets[0].IsFromA == (role == ReplayRole.Requester);
            VectorReplay derived = DialogVector.Derive(capture, vector, isA);
            ReplayInput dialog = new(capture, vector, derived, isA, profile ?? PeerProfile.Rxe);
            return new DialogReplay(dialog).Run(role);
        }

        bool isRequesterA = replay.B.WorkRequests.Count == 0;
        bool isSideA = isRequesterA == (role == ReplayRole.Requester);
        ReplayInput input = new(capture, vector, replay, isSideA, profile ?? PeerProfile.Rxe);
        ReplayRun run = role == ReplayRole.Requester ? new RequesterReplay(input) : new ResponderReplay(input);
        return run.Run(role);
    }
}
