using Wayleave.Lab.Machine;
using Xunit;

namespace Wayleave.Linux.Tests.Lab;

public class GuestResultTests
{
    private const string Panic = "[    1.140769] Kernel panic - not syncing: Fatal exception in interrupt\n";
    private const string Up = "lab: up after 5.12 s, kernel 7.2.12\n";

    [Theory]
    [InlineData(null, Panic, true)]
    [InlineData(null, Up + Panic, false)] // what the test did to the kernel is the test's
    [InlineData(null, "", false)] // the emulator itself did not run
    [InlineData(1, Panic, false)]
    public void Only_a_kernel_that_crashed_before_the_command_is_started_again(int? code, string console, bool again) =>
        Assert.Equal(again, new GuestResult(code, "", "", console, TimeSpan.Zero).CrashedInBoot);
}
