using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>Buffers that their owner takes back while others use them.</summary>
internal static class TakeBackScenarios
{
    public static NamedScenario TwoImporters { get; } = new(
        "revoke-two-importers",
        "An owner frees a buffer that a dynamic and a pinned revocable importer use, remap and deregister; nobody "
        + "reaches the memory after the proof, and the next owner finds it cleared.",
        c => BuildTwoImporters(c, new GpuOptions(), new ImporterFaults()),
        [
            new("gate-stays-open", "An importer goes on after it was told to stop.",
                c => BuildTwoImporters(c, new GpuOptions(), new ImporterFaults { ClosesGate = false })),
            new("drain-not-awaited", "An importer says that it has stopped while an access is under way.",
                c => BuildTwoImporters(c, new GpuOptions(), new ImporterFaults { WaitsForDrain = false })),
            new("proof-not-awaited",
                "The owner hands the memory out when it has asked for it, not when it has the proof.",
                c => BuildTwoImporters(c, new GpuOptions { WaitsForProof = false }, new ImporterFaults())),
            new("not-cleared", "The next owner finds what the old users wrote.",
                c => BuildTwoImporters(c, new GpuOptions { ClearsNewBuffers = false }, new ImporterFaults())),
        ])
    {
        Defence = "the gate closes, its drain is a fence, the proof is waited for, the memory is cleared",
    };

    public static NamedScenario DuringMove { get; } = new(
        "revoke-during-move",
        "An owner frees a buffer while its GPU moves it and an importer writes to it; neither the old nor the new "
        + "place is handed out before the copy has stopped and the importer has left.",
        c => BuildDuringMove(c, new GpuOptions(), new ImporterFaults()),
        [
            new("proof-not-awaited",
                "The owner hands the memory out when it has asked for it, not when it has the proof.",
                c => BuildDuringMove(c, new GpuOptions { WaitsForProof = false }, new ImporterFaults())),
            new("copy-does-not-wait", "The copy starts while the importer still writes to the old place.",
                c => BuildDuringMove(
                    c, new GpuOptions { WaitsForFences = false, WaitsForProof = false }, new ImporterFaults())),
            new("drain-not-awaited", "The importer says that it has stopped while an access is under way.",
                c => BuildDuringMove(c, new GpuOptions(), new ImporterFaults { WaitsForDrain = false })),
        ])
    {
        Defence = "a place is given back by the end of the last copy that names it",
    };

    public static NamedScenario LateDrain { get; } = new(
        "quarantine-late-drain",
        "An importer does not leave in time; the memory stays in quarantine until it does, and is handed out then.",
        c => BuildLateDrain(c, new GpuOptions()),
        [
            new("released-on-time-alone", "The owner hands the memory out without the proof.",
                c => BuildLateDrain(c, new GpuOptions { WaitsForProof = false })),
        ])
    {
        Defence = "a time-out ends in quarantine, which only a proof ends",
    };

    public static NamedScenario ForcedFence { get; } = new(
        "quarantine-forced-fence",
        "Hang detection forces the fence of an importer that does not leave; that is no proof, and the memory stays in "
        + "quarantine until the importer itself says that it has left.",
        c => BuildForcedFence(c, new GpuOptions()),
        [
            new("word-is-enough",
                "The owner is content with an importer's word, which says nothing about accesses under way.",
                c => BuildForcedFence(c, new GpuOptions { ReleaseGradeMin = RetirementGrade.Acknowledged })),
        ])
    {
        Defence = "a fence that was forced is evidence of nothing",
    };

    private static Scenario BuildTwoImporters(Choices choices, GpuOptions options, ImporterFaults faults)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0, faults);
        User nvme = world.AddUser("nvme", ImporterKind.PinnedRevocable, offset: 1);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2, detaches: true)),
            ("nvme", nvme.Write(rounds: 1, detaches: true)),
            ("owner", FreeAndHandOut(world, GpuDomain.Vram)));
    }

    private static Scenario BuildDuringMove(Choices choices, GpuOptions options, ImporterFaults faults)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: world.BlockBytes, faults);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2)),
            ("gpu", Evict(world)),
            ("owner", FreeAndHandOut(world, GpuDomain.Vram, GpuDomain.System)));
    }

    private static Scenario BuildLateDrain(Choices choices, GpuOptions options)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2)),
            ("owner", FreeAndHandOut(world, GpuDomain.Vram)),
            ("clock", TimeOut(world)));
    }

    // The policy asks for the least; what the device makes of that decides.
    private static Scenario BuildForcedFence(Choices choices, GpuOptions options)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 1)),
            ("owner", FreeAndHandOut(world, RetirementGrade.Acknowledged, GpuDomain.Vram)),
            ("hang detection", ForceDrain(world)));
    }

    private static IEnumerable<Step> FreeAndHandOut(World world, params GpuDomain[] domains) =>
        FreeAndHandOut(world, RetirementGrade.Retired, domains);

    private static IEnumerable<Step> FreeAndHandOut(World world, RetirementGrade required, params GpuDomain[] domains)
    {
        yield return "free";
        using (world.Host.Enter())
        {
            world.Gpu.Free(world.Lent, new RevokePolicy { RequiredGrade = required });
        }

        foreach (GpuDomain domain in domains)
        {
            foreach (Step step in world.HandOut(domain))
            {
                yield return step;
            }
        }
    }

    private static IEnumerable<Step> Evict(World world)
    {
        yield return "evict";
        MoveOperation move;
        using (world.Host.Enter())
        {
            move = world.Gpu.Evict(world.Lent);
        }

        yield return new("evicted", () => move.IsCompleted);
        if (move.Error is not (Errno.Success or Errno.ENODEV or Errno.ECANCELED))
        {
            throw new ViolationException($"the move ended with {move.Error}");
        }
    }

    private static IEnumerable<Step> TimeOut(World world)
    {
        yield return new("time out", () => world.Lent.IsFreed);
        using (world.Host.Enter())
        {
            RevokeOperation operation = world.Lent.Freeing!;
            world.Clock.AdvanceTo(operation.Deadline);
            operation.HandleTimeout(world.Clock.Now);
            bool retired = operation.State == RevokeState.Retired;
            if (!operation.IsCompleted || operation.Proof!.IsSufficient != retired)
            {
                throw new ViolationException($"{operation.State} with grade {operation.Proof?.Grade}");
            }

            if (!retired && world.Gpu.Quarantine.Bytes == 0)
            {
                throw new ViolationException("memory without a proof is not in quarantine");
            }
        }
    }

    private static IEnumerable<Step> ForceDrain(World world)
    {
        yield return new("force", () => world.Lent.IsFreed);
        using (world.Host.Enter())
        {
            Fence? fence = world.Lent.Shared.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep);
            fence?.Force(Errno.ETIME);
        }
    }
}
