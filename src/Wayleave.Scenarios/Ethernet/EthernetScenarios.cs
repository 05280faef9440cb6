using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios.Ethernet;

/// <summary>
/// Payload of TCP connections lands in memory that its owner wants back, and queues start anew under load.
/// </summary>
internal static class EthernetScenarios
{
    private const int SegmentBytes = 1400;

    /// <summary>The moment between the look at a translation and the copy, on threads.</summary>
    public static NamedScenario RevokeAgainstSegment { get; } = new(
        "revoke-against-segment",
        "An owner takes back the memory that a receive queue is bound to, while segments arrive; nothing is written "
        + "after the proof, and later segments go to host memory.",
        c => BuildRevoke(c, NicDefences.All),
        [
            new("old-translation", "The NIC goes on with the translation it saw first.",
                c => BuildRevoke(c, NicDefences.All with { ReadsTranslationPerFrame = false, EntersGate = false })),
            new("gate-not-entered", "The NIC reads the translation for each segment and does not enter its gate.",
                c => BuildRevoke(c, NicDefences.All with { EntersGate = false })),
        ])
    {
        Defence = "each segment reads the translation again and is copied inside its gate",
        Orders = OrderSource.Random,
        UsesThreads = true,
    };

    public static NamedScenario RevokeAgainstRead { get; } = new(
        "revoke-against-read",
        "An owner takes memory back while a link reads a frame straight into it; the proof waits for the read, and "
        + "the next owner finds no byte of the frame.",
        c => BuildRead(c, NicDefences.All),
        [
            new("gate-not-entered", "The memory is given to the read without entering its gate.",
                c => BuildRead(c, NicDefences.All with { EntersGate = false })),
        ])
    {
        Defence = "the read happens inside the gate of the translation that named the memory",
    };

    public static NamedScenario TokenAgainstUnbind { get; } = new(
        "token-against-unbind",
        "A reader holds payload by token while the binding is given up and the owner takes its memory back; what a "
        + "token names does not change before it is returned, and the memory is free afterwards.",
        c => BuildUnbind(c, NicDefences.All),
        [
            new("tokens-not-awaited", "The memory goes back when the queues have let go, whatever readers hold.",
                c => BuildUnbind(c, NicDefences.All with { KeepsMemoryForTokens = false })),
        ])
    {
        Defence = "a chunk goes home with its last reference, and the memory with its last chunk",
    };

    public static NamedScenario ResetAgainstRefill { get; } = new(
        "reset-against-refill",
        "A receive queue is reset while segments arrive, the connection takes them and the reader returns them; no "
        + "chunk that somebody holds is filled again, and none is lost.",
        c => BuildReset(c, NicDefences.All),
        [
            new("takes-everything", "A reset takes back every chunk of the ring, whoever else holds it.",
                c => BuildReset(c, NicDefences.All with { ResetKeepsForeignReferences = false })),
        ])
    {
        Defence = "a reset gives back the references of the ring, and no others",
        Orders = OrderSource.Random,
    };

    private static Scenario BuildRevoke(Choices choices, NicDefences defences)
    {
        NicWorld nic = new(choices, pages: 1, ImporterKind.PinnedRevocable, defences);
        World world = nic.World;
        byte[]? afterProof = null;
        RevokeOperation? revoke = null;
        void Receive()
        {
            for (int i = 0; i < 2; i++)
            {
                nic.Arrive(SegmentBytes);
                nic.Deliver();
            }
        }

        void TakeBack()
        {
            using (world.Host.Enter())
            {
                revoke = world.Gpu.Free(world.Lent, new RevokePolicy());
            }
        }

        void Check()
        {
            if (revoke is not { State: RevokeState.Retired })
            {
                return;
            }

            byte[] now = [.. Enumerable.Range(0, world.BufferBytes).Select(i => world.Peek(world.Lent, i))];
            afterProof ??= now;
            if (!afterProof.AsSpan().SequenceEqual(now))
            {
                throw new ViolationException($"a segment landed after a proof of grade {revoke.Proof!.Grade}");
            }
        }

        return new Scenario(
            [Actor.OnThread("nic", Receive), Actor.OnThread("owner", TakeBack)],
            Invariant: Check,
            AtEnd: () =>
            {
                nic.Deliver();
                if (revoke is not { State: RevokeState.Retired, Proof.Grade: RetirementGrade.Retired })
                {
                    throw new ViolationException("the revoke has not ended with a proof");
                }

                nic.Close();
                nic.Unbind();
                nic.RequireNothingLeft();
            },
            Narrate: world.Story.Take);
    }

    private static Scenario BuildRead(Choices choices, NicDefences defences)
    {
        NicWorld nic = new(choices, pages: 1, ImporterKind.PinnedRevocable, defences);
        nic.Arrive(SegmentBytes); // so that the length of the headers is known
        nic.Deliver();
        Scenario scenario = nic.World.ToScenario(
            ("link", nic.ArriveScattered(SegmentBytes)), ("owner", TakeBack(nic.World, GpuDomain.Vram)));
        return scenario with
        {
            Fingerprint = null,
            AtEnd = () =>
            {
                nic.Deliver();
                nic.Close();
                nic.Unbind();
                nic.RequireNothingLeft();
                scenario.AtEnd?.Invoke();
            },
        };
    }

    private static Scenario BuildUnbind(Choices choices, NicDefences defences)
    {
        NicWorld nic = new(choices, pages: 1, ImporterKind.Static, defences);
        World world = nic.World;
        nic.Arrive(SegmentBytes);
        nic.Deliver();
        Scenario scenario = world.ToScenario(
            ("reader", ReadAndReturn(nic)), ("binder", Unbind(nic)), ("owner", TakeBack(world, GpuDomain.System)));
        return scenario with
        {
            Invariant = scenario.Invariant + nic.RequireHeldUnchanged,
            Fingerprint = null,
            AtEnd = nic.RequireNothingLeft + scenario.AtEnd,
        };
    }

    private static IEnumerable<Step> ReadAndReturn(NicWorld nic)
    {
        yield return "read";
        nic.Read();
        yield return "look again";
        nic.RequireHeldUnchanged();
        yield return "return";
        nic.Return();
        yield return "close";
        nic.Close();
    }

    private static IEnumerable<Step> Unbind(NicWorld nic)
    {
        yield return "unbind";
        nic.Unbind();
    }

    private static IEnumerable<Step> TakeBack(World world, GpuDomain domain)
    {
        yield return "free";
        using (world.Host.Enter())
        {
            world.Gpu.Free(world.Lent, new RevokePolicy());
        }

        foreach (Step step in world.HandOut(domain))
        {
            yield return step;
        }
    }

    private static Scenario BuildReset(Choices choices, NicDefences defences)
    {
        NicWorld nic = new(choices, pages: 1, ImporterKind.PinnedRevocable, defences);
        int running = 3;
        Scenario scenario = nic.World.ToScenario(
            ("link", Then(Arrive(nic), () => running--)),
            ("connection", Then(Deliver(nic), () => running--)),
            ("driver", Then(Reset(nic), () => running--)),
            ("reader", Read(nic, () => running > 0)));
        return scenario with
        {
            Invariant = scenario.Invariant + nic.RequireHeldUnchanged,
            Fingerprint = null,
            AtEnd = () =>
            {
                nic.Deliver();
                nic.Close();
                nic.Unbind();
                nic.RequireNothingLeft();
            },
        };
    }

    private static IEnumerable<Step> Arrive(NicWorld nic)
    {
        for (int i = 0; i < 5; i++)
        {
            yield return "segment";
            Guard(() => nic.Arrive(SegmentBytes));
        }
    }

    private static IEnumerable<Step> Deliver(NicWorld nic)
    {
        for (int i = 0; i < 3; i++)
        {
            yield return "deliver";
            Guard(nic.Deliver);
        }
    }

    private static IEnumerable<Step> Reset(NicWorld nic)
    {
        for (int i = 0; i < 2; i++)
        {
            yield return "reset";
            Guard(nic.Reset);
        }
    }

    private static IEnumerable<Step> Read(NicWorld nic, Func<bool> goesOn)
    {
        while (goesOn())
        {
            yield return "read";
            Guard(() => nic.Read());
            yield return "return";
            Guard(() => nic.Return());
        }
    }

    private static IEnumerable<Step> Then(IEnumerable<Step> steps, Action end)
    {
        foreach (Step step in steps)
        {
            yield return step;
        }

        end();
    }

    // A reference that is given back twice is noticed by the pool itself.
    private static void Guard(Action action)
    {
        try
        {
            action();
        }
        catch (InvalidOperationException e)
        {
            throw new ViolationException(e.Message);
        }
    }
}
