using Wayleave.Devices.Rdma;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// Feeds the captured requests at their times, each alone, and compares the answers in their order: rxe answers a
/// request before it looks at the next one.
/// </summary>
internal sealed class ResponderReplay(ReplayInput input) : ReplayRun(input)
{
    private int _nextAnswer;

    protected override void Play()
    {
        HashSet<VectorReceive> waiting = [.. Side.Recv.Where(r => r.When != "before")];
        foreach (VectorPacket packet in Packets.Where(p => !IsOurs(p)))
        {
            Machine.AdvanceTo(TimeSpan.FromMicroseconds(packet.TimeMicroseconds));
            PostReceives(r => waiting.Contains(r) && IsDue(r, packet) && waiting.Remove(r));
            Feed(packet);
            CompareAnswers(packet);
        }
    }

    // The packet that first found the receive says more than a time that was measured elsewhere.
    private static bool IsDue(VectorReceive receive, VectorPacket packet) => receive.BeforePacket is { } before
        ? packet.Index >= before
        : packet.TimeMicroseconds >= (receive.AfterMs ?? 0) * 1000L;

    private void CompareAnswers(VectorPacket request)
    {
        while (Machine.TryTransmit(out ReadOnlySpan<byte> packet, out Transmit transmit))
        {
            while (_nextAnswer < Packets.Count && !IsOurs(Packets[_nextAnswer]))
            {
                _nextAnswer++;
            }

            if (_nextAnswer == Packets.Count)
            {
                AddPacketMismatch(request, "answer", "nothing more", Describe(packet));
                continue;
            }

            VectorPacket expected = Packets[_nextAnswer++];
            Compare(expected, packet, transmit);
            if (expected.Answers is { } answers && answers != request.Index)
            {
                AddPacketMismatch(expected, "answers", $"packet {answers}", $"packet {request.Index}");
            }
        }
    }
}
