using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Regions that are made of descriptors (<c>ibv_reg_dmabuf_mr</c>).</summary>
public class MemoryTests
{
    [Fact]
    public void Peers_write_to_memory_of_descriptors_and_what_is_none_is_refused_by_its_errno()
    {
        string program = VerbsPrograms.Compile("Memory.c");
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{Loopback.NextAddress()}", program);
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void Memory_that_is_paged_on_demand_and_not_there_is_an_error_of_a_request_also_under_traffic()
    {
        string program = VerbsPrograms.Compile("OnDemand.c");
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{Loopback.NextAddress()}", program);
        File.Delete(program);
        Assert.SkipWhen(run.Exit == 77, "the kernel does not let a process copy from itself");
        Assert.True(run.Exit == 0, run.ToString());
    }
}
