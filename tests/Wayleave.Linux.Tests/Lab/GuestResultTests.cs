using Wayleave.Lab.Machine;
using Xunit;

namespace Wayleave.Linux.Tests.Lab;

public class GuestResultTests
{
    private const string Panic = "[    1.140769] Kernel panic - not syncing: Fatal exception in interrupt\n";
    private const string Breakpoint = "[   37.584350] Oops: int3: 0000 [#1] SMP NOPTI\n";
    private const string Up = "lab: up after 5.12 s, kernel 7.2.12\n";

    [Theory]
    [InlineData(null, Panic, true)]
    [InlineData(null, Up + Panic, false)] // what the test did to the kernel is the test's
    [InlineData(null, "", false)] // the emulator itself did not run
    [InlineData(1, Panic, false)]
    [InlineData(null, Up + Breakpoint + Panic, true)] // no test can set one in a kernel
    [InlineData(1, Up + Breakpoint, true)]
    [InlineData(0, Up + Breakpoint, false)]
    [InlineData(1, Up + "[   37.584350] Oops: 0000 [#1] SMP NOPTI\n", false)]
    public void Only_a_kernel_that_the_emulator_crashed_is_started_again(int? code, string console, bool again) =>
        Assert.Equal(again, new GuestResult(code, "", "", console, TimeSpan.Zero).CrashedByEmulator);
}
