using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// What can be replayed: everything of RC, UC and UD but memory windows, with a requester on one side only; and, of a
/// capture without a replay object, what <see cref="DialogVector"/> can tell from its packets.
/// </summary>
internal static class ReplaySupport
{
    public const string RxeProfile = "rxe";

    /// <summary>Why a description cannot be replayed, as a phrase; null when it can.</summary>
    public static string? WhyNot(Capture capture, CaptureVector vector)
    {
        if (vector.Replay is not { } replay)
        {
            return capture.Packets.Count == 0 ? "its description has no replay object" : DialogVector.WhyNot(capture);
        }

        if (replay.Schema != VectorReplay.KnownSchema)
        {
            return $"schema {replay.Schema} of replay objects";
        }

        if (replay.Profile != RxeProfile)
        {
            return $"behaviour profile \"{replay.Profile}\"";
        }

        if (replay.A.WorkRequests.Count > 0 && replay.B.WorkRequests.Count > 0)
        {
            return "work requests of both sides";
        }

        return WhyNot(replay.A) ?? WhyNot(replay.B) ?? vector.Packets.Select(WhyNot).FirstOrDefault(r => r is not null);
    }

    private static string? WhyNot(VectorSide side)
    {
        if (VerbsNames.QueuePairTypeOf(side.Qp.Type) is null)
        {
            return $"{side.Qp.Type} queue pairs";
        }

        if (side.Qp.State is not ("RTS" or "RESET"))
        {
            return $"a queue pair in {side.Qp.State}";
        }

        if (side.Mws.Count > 0)
        {
            return "memory windows";
        }

        return side.Mrs.Select(WhyNot).FirstOrDefault(r => r is not null)
            ?? side.WorkRequests.Select(WhyNot).FirstOrDefault(r => r is not null);
    }

    private static string? WhyNot(VectorRegion region)
    {
        if (region.LKey != region.RKey)
        {
            return "a region with two different keys";
        }

        bool isKnown = region.InitialContent.Rule is "zero" or "same_as"
            && (region.InitialContent.Overrides ?? []).All(o => o.Rule is "bytes" or "u64le")
            && VerbsNames.AccessOf(region.Access) is not null;
        return isKnown ? null : $"region {region.Name}: its content or access flags";
    }

    private static string? WhyNot(VectorWorkRequest request)
    {
        if (VerbsNames.RequestOpcode(request.Opcode) is null)
        {
            return request.Opcode;
        }

        return VerbsNames.SendFlagsOf(request.Flags) is not null && request.Post.When is "start" or "after_completion"
            ? null
            : $"the flags or the time of work request {request.Index}";
    }

    private static string? WhyNot(VectorPacket packet)
    {
        for (int opcode = 0; opcode <= byte.MaxValue; opcode++)
        {
            OpcodeTraits traits = OpcodeTraits.Of((Opcode)opcode);
            if (packet.Opcode == OpcodeTraits.NameOf((Opcode)opcode) && (traits.IsRequest || traits.IsResponse))
            {
                return null;
            }
        }

        return packet.Opcode;
    }
}
