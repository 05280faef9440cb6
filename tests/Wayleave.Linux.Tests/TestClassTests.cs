using System.Reflection;
using Xunit;

namespace Wayleave.Linux.Tests;

/// <summary>What the tests leave behind.</summary>
public class TestClassTests
{
    // xunit calls DisposeAsync alone where there are both, so a folder that Dispose deletes stays for ever.
    [Fact]
    public void A_test_class_is_disposed_in_one_way() => Assert.Empty(
        Assembly.GetExecutingAssembly().GetTypes()
            .Where(t => t.IsAssignableTo(typeof(IAsyncDisposable)) && t.IsAssignableTo(typeof(IDisposable)))
            .Where(t => t.GetMethods().Any(m => m.GetCustomAttribute<FactAttribute>() is not null))
            .Select(t => t.FullName));
}
