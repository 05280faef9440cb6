using Wayleave.Client;
using Wayleave.Linux.Tests.EndToEnd;
using Wayleave.Ports.Programs;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>The host is killed while a program of libibverbs has a region over memory of its GPU.</summary>
public sealed class HostDeathTests : EndToEndTest
{
    private const int SizeBytes = 1 << 20;

    private string Broker => Path.Combine(Root, "wayleave", "b.broker.sock");

    [Theory]
    [InlineData(ClientStorage.Movable)]
    [InlineData(ClientStorage.Mappable)]
    public async Task The_death_of_the_host_ends_the_region_as_a_revoke_does(ClientStorage storage)
    {
        string reports = Directory.CreateDirectory(InFolder("reports")).FullName;
        HostProcess host = await StartHostAsync();
        using BrokerClient owner = BrokerClient.Connect(Broker, "owner");
        ClientBuffer buffer = owner.OpenDevice("gpu0").Allocate("theirs", SizeBytes, storage);
        using FileDescriptor descriptor = buffer.Export();
        using ImportProgram program = new(
            InFolder("meeting"), Broker, descriptor, SizeBytes, environment: (ProgramVariables.Report, reports));
        program.Ask($"pair {ImportProgram.Endless}");
        Assert.Equal(0, program.Ask("write 0 9 65536"));

        // Far more writes than there is time for: they end by the region's end, or never.
        Task<int> writing = Task.Run(() => program.Ask("count 131072 10000"), TestContext.Current.CancellationToken);
        host.Process.Signal(CliProcess.SigKill);
        await host.Process.WaitAsync();
        Assert.Equal(ImportProgram.RemoteAccessError, await writing);
        program.Ask($"pair {ImportProgram.Endless}");
        Assert.Equal(ImportProgram.RemoteAccessError, program.Ask("read 0 9 1"));
        program.Ask($"pair {ImportProgram.Endless}");
        Assert.Equal(ImportProgram.RemoteAccessError, program.Ask($"write {SizeBytes - 1} 9 1"));
        program.Quit();

        ProgramReport report = Assert.Single(ReportPage.ReadAll(reports));
        Assert.Equal(1, report.Counters[ReportCounter.Revokes]);
        Assert.Equal(3, report.Counters[ReportCounter.NaksSent]);
    }
}
