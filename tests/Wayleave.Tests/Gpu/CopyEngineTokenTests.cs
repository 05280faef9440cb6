using Wayleave.Core;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>Two threads submit work and drive the engine if nobody else does: no job may be left behind.</summary>
public class CopyEngineTokenTests(ITestOutputHelper output)
{
    [Fact]
    public void Whoever_leaves_the_engine_looks_again_so_no_job_is_left_behind()
    {
        // All 4,990 orders hold too; on threads they take a quarter of a minute.
        Exploration exploration = Explorer.Seeded(_ => Build(engine => engine.Drive(int.MaxValue)), seed: 1, runs: 300);
        output.WriteLine($"{exploration}");
        Assert.True(
            exploration.Steps > 10 * exploration.Runs, "fewer steps than there are: the points of the engine are off");
    }

    [Fact]
    public void A_driver_that_leaves_without_looking_again_is_caught()
    {
        InterleavingException found =
            Assert.Throws<InterleavingException>(() => Explorer.Exhaustive(_ => Build(DriveOnce)));
        Assert.Contains("left behind", found.Message, StringComparison.Ordinal);
        Assert.Throws<InterleavingException>(() => Explorer.Replay(_ => Build(DriveOnce), found.Trail));
    }

    private static void DriveOnce(CopyEngine engine)
    {
        if (engine.TryEnter())
        {
            while (engine.Step())
            {
            }

            engine.Exit();
        }
    }

    private static Scenario Build(Action<CopyEngine> drive)
    {
        GpuFixture f = new(new GpuOptions());
        void SubmitAndDrive(string name)
        {
            Assert.Equal(Errno.Success, f.TryCreate(name, 1, out _));
            drive(f.Gpu.CopyEngine);
        }

        return new Scenario(
            [Actor.OnThread("a", () => SubmitAndDrive("a")), Actor.OnThread("b", () => SubmitAndDrive("b"))],
            () => { },
            AtEnd: () =>
            {
                if (f.Gpu.CopyEngine.QueuedCount != 0)
                {
                    throw new InvalidOperationException("a job was left behind");
                }
            });
    }
}
