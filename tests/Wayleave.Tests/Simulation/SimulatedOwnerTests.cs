using Wayleave.Core.Buffers;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

/// <summary>The owner and the importer that ship for testing others, against each other.</summary>
public class SimulatedOwnerTests
{
    public static TheoryData<string> Faults => ["gate", "drain", "kernel", "deaf", "silent"];

    [Theory]
    [InlineData(ImporterKind.Dynamic)]
    [InlineData(ImporterKind.PinnedRevocable)]
    public void A_right_importer_holds_against_a_right_owner_that_takes_back(ImporterKind kind)
    {
        ExplorationReport report = Explorer.Explore(_ => Build(new ImporterFaults(), kind, moves: false));
        Assert.Null(report.Failure?.ToString());
        Assert.Equal(ExplorationEnd.EveryOrder, report.End);
    }

    [Fact]
    public void A_right_importer_holds_against_a_right_owner_that_moves()
    {
        ExplorationReport report =
            Explorer.Explore(_ => Build(new ImporterFaults(), ImporterKind.Dynamic, moves: true));
        Assert.Null(report.Failure?.ToString());
        Assert.Equal(ExplorationEnd.EveryOrder, report.End);
    }

    [Theory]
    [MemberData(nameof(Faults))]
    public void Each_fault_of_an_importer_is_found(string fault)
    {
        ImporterFaults right = new();
        ImporterFaults wrong = fault switch
        {
            "gate" => right with { ClosesGate = false },
            "drain" => right with { WaitsForDrain = false },
            "kernel" => right with { WaitsForKernel = false },
            "deaf" => right with { ListensToInvalidation = false },
            _ => right with { ReportsDrain = false },
        };
        Assert.NotNull(Explorer.Explore(_ => Build(wrong, ImporterKind.Dynamic, moves: true)).Failure);
    }

    [Fact]
    public void Neither_fingerprint_leaves_anything_out() =>
        Assert.Null(Explorer.Explore(
            _ => Build(new ImporterFaults(), ImporterKind.Dynamic, moves: true),
            new ExplorationOptions { AuditsFingerprint = true, Orders = OrderSource.Random, RunsMax = 2000 }).Failure);

    // The importer counts up in the buffer, so that what it finds there is what it wrote last.
    private static Scenario Build(ImporterFaults faults, ImporterKind kind, bool moves)
    {
        SimulatedOwner owner = new(StorageKind.Movable);
        SimulatedImporter? nic = null;
        owner.Locked(() => nic = new SimulatedImporter(owner.Host, owner.Fabric, owner.Shared, "nic", kind, faults));
        byte written = 0;
        IEnumerable<Step> use = nic!.Use(rounds: 2, address =>
        {
            owner.RequireLent("nic", address);
            nic.Port.TryWrite(address, 1, out Span<byte> bytes);
            if (bytes[0] != written)
            {
                throw new ViolationException($"nic wrote {written} and finds {bytes[0]}");
            }

            bytes[0] = ++written;
        });
        return new Scenario(
            [new Actor("nic", use), new Actor("owner", moves ? owner.Move() : owner.TakeBack())],
            Invariant: () => { },
            Fingerprint: () =>
            {
                StateHash hash = new();
                hash.Add(written);
                owner.AddTo(ref hash);
                nic.AddTo(ref hash);
                return hash.Value;
            },
            AtEnd: () =>
            {
                if (moves && owner.BytesOf(owner.Place)[0] != written)
                {
                    throw new ViolationException("the move lost a write");
                }
            });
    }
}
