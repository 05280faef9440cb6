using System.Reflection;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;
using static Wayleave.Tests.Rdma.Conversation;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Who guesses keys learns nothing from how a guess is refused (roce.md A15): not whether the key exists, in another
/// protection domain or without the right. The steps are counted, and the answers compared; how long a step takes on a
/// processor is not.
/// </summary>
public class KeyGuessTests
{
    private const uint Unknown = 0xDEAD_0101;
    private const int Guesses = 5;

    public static TheoryData<string, int> Cases
    {
        get
        {
            TheoryData<string, int> cases = [];
            foreach (string guess in (string[])["foreign", "without the right", "other tag", "unbound window"])
            {
                cases.Add(guess, (int)Opcode.RcWriteOnly);
                cases.Add(guess, (int)Opcode.RcReadRequest);
                cases.Add(guess, (int)Opcode.RcFetchAdd);
            }

            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_connection_refuses_a_key_that_exists_as_one_that_nobody_has(string guess, int opcode)
    {
        (string answer, Dictionary<string, long> counters) = Ask(guess, (Opcode)opcode);
        (string expected, Dictionary<string, long> known) = Ask("unknown", (Opcode)opcode);
        Assert.Equal(expected, answer);
        Assert.Equal(known, counters);
        Assert.Equal((1, 1), (counters["KeyLookups"], counters["NaksRemoteAccessSent"]));
    }

    [Theory]
    [InlineData("foreign")]
    [InlineData("without the right")]
    [InlineData("other tag")]
    public void Without_answers_every_guess_takes_the_same_look_ups(string guess)
    {
        Assert.Equal(Guesses, LookupsOf(guess, ResponderDefences.All));
        Assert.Equal(Guesses, LookupsOf("unknown", ResponderDefences.All));
    }

    [Fact]
    public void A_responder_that_remembers_what_it_refused_is_caught()
    {
        ResponderDefences broken = new() { ForgetsRefused = false };
        Assert.Equal(Guesses, LookupsOf("unknown", broken));
        Assert.Equal(1, LookupsOf("foreign", broken));
    }

    // A first request that is fine, then the guess: the answer to that, the event, and what both have counted.
    private static (string Answer, Dictionary<string, long> Counters) Ask(string guess, Opcode opcode)
    {
        const AccessFlags All = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
            | AccessFlags.RemoteAtomic;
        Conversation c = new(a => a with { AccessFlags = All }, access: All);
        uint key = KeyOf(c.Node, c.Region, guess);
        RdmaStats before = c.Node.Port.Stats;
        c.Send(new RawPacket(opcode, First)
        {
            AckRequest = true,
            Reth = new Reth(c.Region.Iova, key, 64),
            Atomic = new AtomicEth(c.Region.Iova, key, 1, 0),
            Payload = opcode == Opcode.RcWriteOnly ? new byte[64] : [],
        });
        string answer = Convert.ToHexString(c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0"));
        c.ExpectNothing();
        c.ExpectState(QueuePairState.Error);
        Assert.Equal(
            new AsyncEvent(AsyncEventType.QueuePairAccessError, c.Pair.QpNumber, key),
            Assert.Single(c.Node.PollEvents()));
        return (answer, Difference(before, c.Node.Port.Stats));
    }

    private static long LookupsOf(string guess, ResponderDefences defences)
    {
        TestLink link = new(configureB: o => o with { Defences = defences });
        QueuePair a = link.A.CreatePair(QueuePairType.UnreliableConnection, TestNode.CreateCompletionQueue());
        QueuePair b = link.B.CreatePair(QueuePairType.UnreliableConnection, TestNode.CreateCompletionQueue());
        QueuePairAttributes attributes = new Connection().Attributes with { AccessFlags = AccessFlags.RemoteWrite };
        Apply(a, attributes, link.B.Gid, b);
        Apply(b, attributes with { SqPsn = attributes.RqPsn, RqPsn = attributes.SqPsn }, link.A.Gid, a);
        MemoryRegion source = link.A.Register(link.A.Allocate(4096));
        MemoryRegion target = link.B.Register(link.B.Allocate(4096));
        uint key = KeyOf(link.B, target, guess);
        for (int i = 0; i < Guesses; i++)
        {
            Assert.Equal(Errno.Success, a.PostSend(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    RemoteAddress = target.Iova,
                    RKey = key,
                },
                new Sge(source.Iova, 64, source.Key)));
            link.Run();
        }

        Assert.Equal(Guesses, link.B.Port.Stats.Drops(DropReason.NotAllowed));
        return link.B.Port.Stats.KeyLookups;

        static void Apply(QueuePair pair, QueuePairAttributes attributes, Gid to, QueuePair other) => new Connection
        {
            Attributes = attributes with { AddressVector = new AddressVector(to), DestQpNumber = other.QpNumber },
        }.ApplyRequired(pair);
    }

    // Everything is there, whichever of it is asked for.
    private static uint KeyOf(TestNode node, MemoryRegion own, string guess)
    {
        MemoryRegion foreign = node.Register(
            node.Allocate(4096), domain: node.Device.CreateProtectionDomain());
        MemoryRegion without = node.Register(node.Allocate(4096), AccessFlags.LocalWrite);
        MemoryWindow window = node.AllocateWindow(MemoryWindowType.Type2);
        return guess switch
        {
            "foreign" => foreign.Key,
            "without the right" => without.Key,
            "other tag" => own.Key ^ 1,
            "unbound window" => window.Key,
            _ => Unknown,
        };
    }

    private static Dictionary<string, long> Difference(in RdmaStats before, in RdmaStats after)
    {
        Dictionary<string, long> counters = [];
        foreach (PropertyInfo property in typeof(RdmaStats).GetProperties().Where(p => p.PropertyType == typeof(long)))
        {
            counters[property.Name] = (long)property.GetValue(after)! - (long)property.GetValue(before)!;
        }

        foreach (DropReason reason in Enum.GetValues<DropReason>())
        {
            counters[$"dropped {reason}"] = after.Drops(reason) - before.Drops(reason);
        }

        return counters;
    }
}
