using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>Buffers that move while others use them.</summary>
internal static class MoveScenarios
{
    public static NamedScenario TwoImporters { get; } = new(
        "move-two-importers",
        "A GPU evicts a buffer and restores it while two dynamic importers write to it; no write is lost, none lands "
        + "where the buffer no longer is.",
        c => Build(c, new GpuOptions(), new ImporterFaults()),
        [
            new("copy-does-not-wait", "The copy starts while importers still write to the old place.",
                c => Build(c, new GpuOptions { WaitsForFences = false, WaitsForProof = false }, new ImporterFaults())),
            new("gate-stays-open", "An importer goes on with the old place after it was told to stop.",
                c => Build(c, new GpuOptions(), new ImporterFaults { ClosesGate = false })),
            new("drain-not-awaited", "An importer says that it has stopped while an access is under way.",
                c => Build(c, new GpuOptions(), new ImporterFaults { WaitsForDrain = false })),
            new("kernel-fence-not-awaited", "An importer uses the new place before the copy has filled it.",
                c => Build(c, new GpuOptions(), new ImporterFaults { WaitsForKernel = false })),
        ])
    {
        Defence = "the copy waits for every BOOKKEEP fence, the importers for the KERNEL fence",
    };

    /// <summary>What the exploration rate is measured by: one move, two importers of two rounds.</summary>
    public static NamedScenario Once { get; } = new(
        "move-once",
        "A GPU evicts a buffer once while two dynamic importers write to it twice each; no write is lost.",
        c => BuildOnce(c, new GpuOptions(), new ImporterFaults()),
        [
            new("copy-does-not-wait", "The copy starts while importers still write to the old place.",
                c => BuildOnce(
                    c, new GpuOptions { WaitsForFences = false, WaitsForProof = false }, new ImporterFaults())),
            new("drain-not-awaited", "An importer says that it has stopped while an access is under way.",
                c => BuildOnce(c, new GpuOptions(), new ImporterFaults { WaitsForDrain = false })),
        ])
    {
        Defence = "the copy waits for every BOOKKEEP fence, the importers for the KERNEL fence",
    };

    private static Scenario BuildOnce(Choices choices, GpuOptions options, ImporterFaults faults)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0, faults);
        User nvme = world.AddUser("nvme", ImporterKind.Dynamic, offset: world.BlockBytes);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2)),
            ("nvme", nvme.Write(rounds: 2)),
            ("gpu", Move(world, [GpuDomain.System])));
    }

    private static Scenario Build(Choices choices, GpuOptions options, ImporterFaults faults)
    {
        World world = new(choices, options);
        User nic = world.AddUser("nic", ImporterKind.Dynamic, offset: 0, faults);
        User nvme = world.AddUser("nvme", ImporterKind.Dynamic, offset: world.BlockBytes);
        return world.ToScenario(
            ("nic", nic.Write(rounds: 2)),
            ("nvme", nvme.Write(rounds: 1)),
            ("gpu", Move(world, [GpuDomain.System, GpuDomain.Vram])));
    }

    private static IEnumerable<Step> Move(World world, IReadOnlyList<GpuDomain> targets)
    {
        foreach (GpuDomain target in targets)
        {
            yield return $"move to {target}";
            MoveOperation move;
            using (world.Host.Enter())
            {
                move = world.Gpu.Move(world.Lent, target);
            }

            yield return new("moved", () => move.IsCompleted);
            World.Require(Core.Errno.Success, move.Error);
        }
    }
}
