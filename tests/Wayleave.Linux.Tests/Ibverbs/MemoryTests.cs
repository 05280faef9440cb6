using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Regions that are made of descriptors (<c>ibv_reg_dmabuf_mr</c>).</summary>
public class MemoryTests
{
    [Fact]
    public void Peers_write_to_memory_of_descriptors_and_what_is_none_is_refused_by_its_errno()
    {
        string program = VerbsPrograms.Compile("Memory.c");
        VerbsRun run = VerbsPrograms.RunOn("wl0@127.0.57.210", program);
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }
}
