using Wayleave.Scenarios.AddressSpaces;
using Wayleave.Scenarios.Corpus;
using Wayleave.Scenarios.Ethernet;

namespace Wayleave.Scenarios;

/// <summary>The scenarios that ship: what the explorer runs against the same code that users run.</summary>
public static class ScenarioCatalog
{
    /// <summary>In the order in which they are listed.</summary>
    public static IReadOnlyList<NamedScenario> All { get; } =
    [
        MoveScenarios.Once,
        MoveScenarios.TwoImporters,
        TakeBackScenarios.TwoImporters,
        TakeBackScenarios.DuringMove,
        TakeBackScenarios.LateDrain,
        TakeBackScenarios.ForcedFence,
        LendAgainstClear.Scenario,
        RdmaScenarios.WriteUnderMoves,
        RdmaScenarios.WriteAgainstTakeBack,
        SignalingScenarios.Path,
        ComputeScenarios.UnderMove,
        NotifierAgainstFault.Scenario,
        MigrateAgainstTouch.Scenario,
        TwoDevicesOnePage.Scenario,
        ForkAgainstPin.Scenario,
        ExitAgainstAll.Scenario,
        PrefetchAgainstUnmap.Scenario,
        MigrateAgainstHold.Scenario,
        FolioScenarios.SplitAgainstMigrate,
        FolioScenarios.SplitAgainstFault,
        GpuFaultScenarios.Block,
        GpuFaultScenarios.Queue,
        GpuFaultScenarios.CopyQueue,
        GpuEvictionScenarios.Mover,
        GpuEvictionScenarios.TwoEngines,
        PagesToGpu.Scenario,
        HandOver.Scenario,
        GpuEvictionScenarios.Reclaim,
        RegionsUnderPressure.Scenario,
        EthernetScenarios.RevokeAgainstSegment,
        EthernetScenarios.RevokeAgainstRead,
        EthernetScenarios.TokenAgainstUnbind,
        EthernetScenarios.ResetAgainstRefill,
        LockFreeScenarios.Gate,
        LockFreeScenarios.Engine,
        ChainBetweenEngines.Scenario,
        AbortUnderWrite.Scenario,
        LostAcknowledgement.Scenario,
        StaticKey.Scenario,
        CancelInFlight.Scenario,
        DisconnectMidPost.Scenario,
        StaleMetadata.Scenario,
        NeverReclaimed.Scenario,
        FreeIgnoresExports.Scenario,
        SilentCallback.Scenario,
        StaleRegistrationCache.Scenario,
        WrongUsage.Scenario,
        LockOrder.Scenario,
        LockOrder.Checked,
        FenceInNotifier.Checked,
        FenceInNotifier.Rule,
        FenceInNotifier.Faults,
        FenceInNotifier.Stall,
        FenceInNotifier.Pinned,
    ];

    /// <summary>The scenario of a name, or null.</summary>
    public static NamedScenario? Find(string name) => All.FirstOrDefault(s => s.Name == name);
}
