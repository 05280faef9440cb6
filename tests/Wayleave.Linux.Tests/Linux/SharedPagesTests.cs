using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Pages that others may map, and what the kernel says of who has them.</summary>
public sealed class SharedPagesTests
{
    private const int Size = 64 << 10;

    [Fact]
    public void Pages_are_held_elsewhere_as_long_as_a_descriptor_or_a_mapping_that_was_made_by_one_is_left()
    {
        using SharedPages pages = SharedPages.Create("test", Size);
        Assert.SkipUnless(pages.CanAsk, "this kernel grants no lease on a memfd");
        Assert.False(pages.AreHeldElsewhere());
        FileDescriptor first = pages.OpenForOthers(), second = pages.OpenForOthers();
        first.Dispose();
        Assert.True(pages.AreHeldElsewhere());
        using (MappedMemory.MapShared(second, 0, Size, "test"))
        {
            second.Dispose();
            Assert.True(pages.AreHeldElsewhere());
        }

        Assert.False(pages.AreHeldElsewhere());
    }

    [Fact]
    public void A_descriptor_that_is_made_after_a_question_counts_like_those_before()
    {
        using SharedPages pages = SharedPages.Create("test", Size);
        Assert.SkipUnless(pages.CanAsk, "this kernel grants no lease on a memfd");
        for (int i = 0; i < 3; i++)
        {
            using (pages.OpenForOthers())
            {
                Assert.True(pages.AreHeldElsewhere());
            }

            Assert.False(pages.AreHeldElsewhere());
        }
    }

    [Fact]
    public void Who_opens_the_pages_while_they_are_asked_about_does_not_end_this_process()
    {
        using SharedPages pages = SharedPages.Create("test", Size);
        using CancellationTokenSource ended = new();
        Thread asker = new(() =>
        {
            while (!ended.IsCancellationRequested)
            {
                pages.AreHeldElsewhere();
            }
        });
        asker.Start();
        for (int i = 0; i < 2000; i++)
        {
            // As a process of the same user could, by /proc: it breaks the lease if that stands at the moment.
            pages.OpenAgainForTest().Dispose();
        }

        ended.Cancel();
        asker.Join();
        Assert.True(!pages.CanAsk || !pages.AreHeldElsewhere());
    }
}
