using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Threads of their own: what is set stays with the thread.</summary>
public class ProcessorAffinityTests
{
    [Fact]
    public void A_thread_that_stays_on_one_processor_has_no_second_one()
    {
        (bool First, bool Second, bool Again) stays = default;
        Thread thread = new(() => stays = (
            ProcessorAffinity.TryStayOn(0), ProcessorAffinity.TryStayOn(1), ProcessorAffinity.TryStayOn(0)));
        thread.Start();
        thread.Join();
        Assert.Equal((true, false, true), stays);
    }

    [Fact]
    public void Who_asks_for_a_processor_that_is_not_there_may_go_on_everywhere()
    {
        (bool Last, bool First) stays = default;
        Thread thread = new(() => stays = (ProcessorAffinity.TryStayOn(100_000), ProcessorAffinity.TryStayOn(0)));
        thread.Start();
        thread.Join();
        Assert.Equal((false, true), stays);
    }
}
