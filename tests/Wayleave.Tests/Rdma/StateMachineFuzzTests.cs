using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>F-03 and F-04: hostile packets with a valid ICRC, and what must hold whatever they are.</summary>
public class StateMachineFuzzTests
{
    private const int Packets = 400;

    /// <summary>
    /// F-03. The expected PSN moves forward only; no byte outside the regions changes (their neighbours keep a canary);
    /// every NAK but 0x60 and the RNR ends the queue pair, and nothing is answered after it.
    /// </summary>
    [Fact]
    public void F_03_A_responder_survives_every_sequence_of_requests()
    {
        long placed = 0, naks = 0;
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(150); seed++)
        {
            SplitMix64 random = new(seed);
            Conversation c = new(
                a => a with
                {
                    AccessFlags = (AccessFlags)(random.Next(4) == 0 ? random.Next(16) : 0x10E),
                    MaxDestRdAtomic = random.Next(4),
                },
                depth: 4096);
            TestMemory fence = c.Node.Allocate(8192);
            Fill(fence, 0xC5, 8192);

            // Registered: only the middle of the buffer. Its ends are canaries.
            MemoryRegionRequest request = new(
                4096,
                1024,
                0x5000_0000,
                AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic,
                Core.Buffers.ImporterKind.Dynamic);
            Assert.Equal(Core.Errno.Success, c.Node.TryRegister(fence, request, out MemoryRegion? small));
            MemoryRegion readOnly = c.Node.Register(c.Memory, AccessFlags.RemoteRead, iova: 0x6000_0000);
            MemoryRegion[] keys = [c.Region, small!, readOnly];
            for (ulong i = 0; i < 8; i++)
            {
                c.PostReceive(i, (ulong)random.Next(1000), (uint)random.Next(3000));
            }

            uint expected = c.Pair.ResponderProgress.ExpectedPsn;
            for (int i = 0; i < Packets; i++)
            {
                c.Send(RandomRequest(random, expected, keys));
                if (random.Next(50) == 0)
                {
                    c.Memory.Move();
                    c.Node.ServeFaults();
                }

                uint now = c.Pair.ResponderProgress.ExpectedPsn;
                int moved = Psn.Distance(expected, now);
                Assert.True(moved is >= 0 and <= 1 << 21, $"seed {seed}: the expected PSN moved by {moved}");
                expected = now;
                foreach (string answer in Drain(c))
                {
                    bool ends = answer.StartsWith("RC_ACKNOWLEDGE", StringComparison.Ordinal)
                        && answer[22..24] is "61" or "62" or "63";
                    Assert.True(
                        !ends || c.Pair.State == QueuePairState.Error,
                        $"seed {seed}: {answer} left the queue pair in {c.Pair.State}");
                }
            }

            byte[] canary = [.. fence.Read(0, 4096), .. fence.Read(5120, 3072)];
            Assert.True(
                canary.AsSpan().IndexOfAnyExcept((byte)0xC5) < 0, $"seed {seed}: a byte outside the region changed");
            placed += c.Node.Port.Stats.BytesPlaced;
            naks += c.Node.Port.Stats.NaksInvalidRequestSent + c.Node.Port.Stats.NaksRemoteAccessSent;
        }

        Assert.True(placed > 10_000 && naks > 20, $"the fuzz reached little: {placed} bytes placed, {naks} NAKs");
    }

    /// <summary>
    /// F-04. Whatever comes back, each posted request completes exactly once and in order, and only what it names is
    /// written.
    /// </summary>
    [Fact]
    public void F_04_A_requester_survives_every_sequence_of_responses()
    {
        long successes = 0;
        for (ulong seed = 1; seed <= (ulong)FuzzRounds.Of(150); seed++)
        {
            SplitMix64 random = new(seed);
            Conversation c = new(a => a with { MaxRdAtomic = 1 + random.Next(3) }, depth: 4096);
            Fill(c.Memory, 0xC5, Conversation.MemoryBytes);
            ulong posted = 0, completed = 0;
            for (int i = 0; i < Packets && c.Pair.State != QueuePairState.Error; i++)
            {
                if (random.Next(4) == 0 && posted - completed < 16)
                {
                    // READs may only touch the second half.
                    WorkRequestOpcode opcode = (WorkRequestOpcode)random.Next(7);
                    uint length = (uint)(opcode >= WorkRequestOpcode.AtomicCompareSwap ? 8 : random.Next(4000));
                    c.Post(posted++, opcode, 0x8000 + (ulong)random.Next(0x1000), length);
                }

                List<string> sent = Drain(c);
                uint psn = Psn.Add(Conversation.OwnFirst, (uint)random.Next(64) - 8);
                psn = sent.Count > 0 && random.Next(2) == 0
                    ? uint.Parse(
                        sent[^1].Split(' ')[1],
                        System.Globalization.NumberStyles.HexNumber,
                        System.Globalization.CultureInfo.InvariantCulture)
                    : psn;
                c.Send(RandomResponse(random, psn));
                if (random.Next(10) == 0)
                {
                    c.Wait(TimeSpan.FromMilliseconds(random.Next(100)));
                }

                foreach (WorkCompletion completion in TestNode.Poll(c.Completions))
                {
                    Assert.True(completion.WrId == completed, $"seed {seed}: {completion} came out of order");
                    completed++;
                    successes += completion.Status == WorkCompletionStatus.Success ? 1 : 0;
                }
            }

            c.Pair.Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State);
            Drain(c);
            completed += (ulong)TestNode.Poll(c.Completions).Count;
            Assert.Equal(posted, completed);
            Assert.True(
                c.Memory.Read(0, 0x8000).AsSpan().IndexOfAnyExcept((byte)0xC5) < 0,
                $"seed {seed}: a byte that no READ names was written");
            Assert.Equal(0, c.Pair.Peer.Window.InFlightBytes);
            Assert.Equal(0, c.Pair.Peer.ReadWindow.InFlightBytes);
        }

        Assert.True(successes > 100, $"the fuzz reached little: {successes} successes");
    }

    [Fact]
    public void Random_bytes_never_throw()
    {
        SplitMix64 random = new(5);
        Conversation c = new();
        byte[] bytes = new byte[65536];
        for (int i = 0; i < FuzzRounds.Of(2000); i++)
        {
            int length = random.Next(300);
            random.Fill(bytes.AsSpan(0, length));
            if (length > 8 && random.Next(2) == 0)
            {
                bytes[1] &= 0xF0;
                bytes[5] = (byte)(c.Pair.QpNumber >> 16);
                bytes[6] = (byte)(c.Pair.QpNumber >> 8);
                bytes[7] = (byte)c.Pair.QpNumber;
            }

            c.Node.Port.HandleDatagrams(c.PeerGid, 4791, bytes.AsSpan(0, length), random.Next(64), 0, c.Now);
        }

        c.ExpectUntouched();
        c.ExpectNothing();
        Assert.Equal(c.Node.Port.Stats.PacketsReceived, c.Node.Port.Stats.PacketsDropped);
    }

    private static RawPacket RandomRequest(SplitMix64 random, uint expected, MemoryRegion[] keys)
    {
        Opcode[] opcodes =
        [
            Opcode.RcSendFirst, Opcode.RcSendMiddle, Opcode.RcSendLast, Opcode.RcSendOnly,
            Opcode.RcSendOnlyWithImmediate, Opcode.RcSendOnlyWithInvalidate, Opcode.RcWriteFirst, Opcode.RcWriteMiddle,
            Opcode.RcWriteLast, Opcode.RcWriteLastWithImmediate, Opcode.RcWriteOnly, Opcode.RcWriteOnlyWithImmediate,
            Opcode.RcReadRequest, Opcode.RcCompareSwap, Opcode.RcFetchAdd, Opcode.RcFlush, Opcode.RcAtomicWrite,
            Opcode.RcSendLastWithInvalidate, Opcode.RcSendOnlyWithInvalidate,
        ];

        // Mostly sensible, so that states behind the first packet are reached.
        Opcode opcode = random.Next(10) < 7 ? Opcode.RcWriteOnly : opcodes[random.Next(opcodes.Length)];
        MemoryRegion region = keys[random.Next(20) == 0 ? random.Next(keys.Length) : random.Next(2)];
        int payload = opcode switch
        {
            Opcode.RcReadRequest or Opcode.RcCompareSwap or Opcode.RcFetchAdd or Opcode.RcFlush =>
                random.Next(20) == 0 ? 4 : 0,
            Opcode.RcAtomicWrite => random.Next(20) == 0 ? 4 : 8,
            Opcode.RcSendFirst or Opcode.RcWriteFirst or Opcode.RcSendMiddle or Opcode.RcWriteMiddle =>
                random.Next(20) == 0 ? 1000 : Conversation.Mtu,
            _ => random.Next(Conversation.Mtu + (random.Next(20) == 0 ? 8 : 1)),
        };
        byte[] bytes = new byte[payload];
        random.Fill(bytes);
        ulong address = region.Iova + (ulong)random.Next((int)region.LengthBytes);
        address -= random.Next(30) == 0 ? 700u : 0;
        bool isOnly = opcode is Opcode.RcWriteOnly or Opcode.RcWriteOnlyWithImmediate;
        uint length = isOnly && random.Next(30) != 0 ? (uint)payload : (uint)random.Next(4096);
        if (isOnly && random.Next(30) != 0)
        {
            address = Math.Min(address, region.Iova + region.LengthBytes - Math.Min(length, region.LengthBytes));
        }

        return new RawPacket(opcode, Psn.Add(expected, random.Next(10) < 8 ? 0 : (uint)random.Next(9) - 4))
        {
            AckRequest = random.Next(2) == 0,
            Solicited = random.Next(2) == 0,
            Pad = random.Next(50) == 0 ? random.Next(4) : null,
            Reth = new Reth(address, random.Next(40) == 0 ? (uint)random.NextUInt64() : region.Key, length),
            Atomic = new AtomicEth(
                address & ~(random.Next(20) == 0 ? 0UL : 7UL), region.Key, random.NextUInt64(), 0),
            Feth = new Feth(random.Next(20) == 0 ? (uint)random.NextUInt64() : 1),
            Payload = bytes,
        };
    }

    private static RawPacket RandomResponse(SplitMix64 random, uint psn)
    {
        Opcode opcode = random.Next(2) == 0 ? Opcode.RcAcknowledge : Opcode.RcReadResponseFirst + (byte)random.Next(6);
        byte[] syndromes = [0x1F, 0x1F, 0x1F, 0x1F, 0x00, 0x21, 0x60, 0x60, 0x40, 0x80];
        byte syndrome = random.Next(60) == 0 ? (byte)random.NextUInt64() : syndromes[random.Next(syndromes.Length)];
        int payload = opcode is Opcode.RcAcknowledge or Opcode.RcAtomicAcknowledge ? 0
            : random.Next(3) == 0 ? random.Next(1100)
            : Conversation.Mtu;
        byte[] bytes = new byte[payload];
        random.Fill(bytes);
        return new RawPacket(opcode, psn) { Aeth = new Aeth(syndrome, 0), Payload = bytes };
    }

    private static List<string> Drain(Conversation c)
    {
        List<string> sent = [];
        byte[] buffer = new byte[65536];
        while (c.Node.Port.PollTransmit(c.Now, buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                sent.Add(
                    TestLink.Describe(buffer.AsSpan(at, Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at))));
            }
        }

        return sent;
    }

    private static void Fill(TestMemory memory, byte value, int length)
    {
        byte[] bytes = new byte[length];
        Array.Fill(bytes, value);
        memory.Fill(0, bytes);
    }
}
